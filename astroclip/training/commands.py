"""The commands ``astroclip train`` and ``astroclip bundle``."""

__all__ = ["add_parser"]

OBJECTIVES = {
    "align": "both encoders against each other: InfoNCE and what the recipe adds",
    "heads": "the projections of both encoders, from summaries that their backbones give once",
    "spectra": "the spectrum encoder alone, by masked modelling",
    "images": "the image encoder alone, by momentum contrast (MoCo v2)",
    "rest": "the spectrum encoder of the rest-frame model",
}
EPILOG = """\
Examples:
  astroclip train work                               the bundled model, on simulated pairs
  astroclip train work --objective heads --recipe small-heads --start work/polished/last.ckpt
  astroclip train work --objective rest --start work/run/last.ckpt
  astroclip train work --pairs survey.h5 --validation held_out.h5 --recipe mine.toml
  torchrun --nproc-per-node 2 -m -- astroclip.cli train work   two processes share each batch
Run again after an interruption, it goes on from the last finished shard and epoch. Logs:
WORKSPACE/*/logs/version_*/metrics.csv.
"""


def add_parser(subparsers):
    """Add ``train`` and ``bundle`` to the command line's subparsers."""
    import argparse

    train = subparsers.add_parser(
        "train",
        help="train encoders on simulated pairs or on your own (extras: train, simulate)",
        description="Train encoders. Without --pairs, the recipe's pairs are simulated into "
        "WORKSPACE first.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("workspace", help="folder for pairs, checkpoints and logs")
    train.add_argument(
        "--objective", default="align", choices=tuple(OBJECTIVES),
        help="; ".join(f"{name}: {text}" for name, text in OBJECTIVES.items()),
    )
    train.add_argument(
        "--recipe", default="small",
        help="small (the bundled models), published (no known properties), tiny, or a TOML file",
    )
    train.add_argument(
        "--pairs", nargs="+", default=None, metavar="SOURCE",
        help="your own pairs: HDF5 files, Parquet shards or folders of simulated shards",
    )
    train.add_argument(
        "--validation", default=None, metavar="SOURCE", help="held-out pairs to score every epoch"
    )
    train.add_argument(
        "--start", action="append", default=None, metavar="WEIGHTS",
        help="weights to start from (.safetensors or .ckpt); may be given again",
    )
    train.add_argument("--workers", type=int, default=1, help="processes that simulate")
    train.add_argument("--threads", type=int, default=None, help="threads that train")
    train.set_defaults(run=run_train)
    bundle = subparsers.add_parser(
        "bundle",
        help="write weights, reference table and model card of a trained workspace",
        epilog="Examples:\n  astroclip bundle work out --recipe small-heads",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bundle.add_argument("workspace", help="folder that `astroclip train` filled")
    bundle.add_argument("output", help="folder for the files, astroclip/data to ship them")
    bundle.add_argument("--recipe", default="small", help="the recipe it was trained with")
    bundle.add_argument("--real-data", default=None, help="folder of real spectra to score")
    bundle.set_defaults(run=run_bundle)


def run_train(arguments):
    """Simulate or read pairs and train; return the exit status."""
    from astroclip.training.recipes import find_recipe
    from astroclip.training.workspace import Workspace

    workspace = Workspace(arguments.workspace, find_recipe(arguments.recipe))
    if arguments.pairs is None:
        workspace.simulate(n_workers=arguments.workers, show_progress=True)
        sources, validation = workspace.training_folders(), workspace.pairs_folder("validation")
    elif arguments.validation is None:
        msg = "--pairs needs --validation: held-out pairs in any of the same forms."
        raise ValueError(msg)
    else:
        sources, validation = arguments.pairs, arguments.validation
    RUNNERS[arguments.objective](arguments, workspace, sources, validation)
    return 0


def _align(arguments, workspace, sources, validation):
    from astroclip.training.run import train_alignment, train_refinement

    alignment = train_alignment(
        sources, validation, workspace.checkpoints, recipe=workspace.recipe,
        start=arguments.start, n_threads=arguments.threads, show_progress=True,
        contaminants=workspace.contaminants() if workspace.recipe.outlier_share else None,
    )
    if workspace.recipe.refinement:
        train_refinement(alignment, workspace, show_progress=True)


def _heads(arguments, workspace, sources, validation):
    from astroclip.training.heads import train_heads

    train_heads(
        sources, validation, workspace.checkpoints, recipe=workspace.recipe,
        start=arguments.start, n_threads=arguments.threads, show_progress=True,
        contaminants=workspace.contaminants() if workspace.recipe.outlier_share else None,
    )


def _pretrain(arguments, workspace, sources, validation, *, section):
    from astroclip.training import pretraining
    from astroclip.training.masking import MaskingRecipe
    from astroclip.training.momentum import MomentumRecipe
    from astroclip.training.recipes import read_recipe
    from astroclip.training.run import join_pairs
    from astroclip.training.sources import read_source

    kind = {"spectra": MaskingRecipe, "images": MomentumRecipe}[section]
    pretrain = getattr(pretraining, f"pretrain_{section}")
    pretrain(
        join_pairs([read_source(source) for source in sources]),
        read_source(validation),
        workspace.folder / section,
        recipe=read_recipe(arguments.recipe, section, kind),
        n_threads=arguments.threads,
        show_progress=True,
    )


def _spectra(*arguments):
    _pretrain(*arguments, section="spectra")


def _images(*arguments):
    _pretrain(*arguments, section="images")


def _rest(arguments, workspace, sources, validation):
    if arguments.pairs is not None:
        msg = (
            "--objective rest takes no --pairs: it puts galaxies at other redshifts, for which "
            "their light must be noiseless. Leave --pairs out to train on simulated ones."
        )
        raise ValueError(msg)
    from astroclip.training.recipes import read_recipe
    from astroclip.training.rest_bundle import train_rest_frame
    from astroclip.training.rest_frame import RestFrameRecipe

    train_rest_frame(
        workspace, recipe=read_recipe(arguments.recipe, "rest", RestFrameRecipe),
        start=arguments.start, n_threads=arguments.threads, show_progress=True,
    )


RUNNERS = {
    "align": _align, "heads": _heads, "spectra": _spectra, "images": _images, "rest": _rest,
}


def run_bundle(arguments):
    """Write the shippable files of a trained workspace; return the exit status."""
    from astroclip.training.bundle import write_bundle
    from astroclip.training.recipes import find_recipe, read_recipe
    from astroclip.training.rest_bundle import write_rest_bundle
    from astroclip.training.rest_frame import RestFrameRecipe
    from astroclip.training.run import find_checkpoint
    from astroclip.training.workspace import Workspace

    workspace = Workspace(arguments.workspace, find_recipe(arguments.recipe))
    write_bundle(
        workspace,
        arguments.output,
        recipe_name=arguments.recipe,
        real_data=arguments.real_data,
    )
    recipe = read_recipe(arguments.recipe, "rest", RestFrameRecipe)
    if find_checkpoint(workspace.folder / recipe.folder) is not None:
        write_rest_bundle(workspace, arguments.output, recipe=recipe)
    return 0

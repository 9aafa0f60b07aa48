"""The commands ``astroclip train`` and ``astroclip bundle``."""

from astroclip.cli.options import add_command, positive_integer

__all__ = ["add_parser", "run_bundle", "run_train"]

OBJECTIVES = {
    "align": "both encoders against each other: InfoNCE and what the recipe adds",
    "heads": "the projections of both encoders, from summaries that their backbones give once",
    "spectra": "the spectrum encoder alone, by masked modeling",
    "images": "the image encoder alone, by momentum contrast (MoCo v2)",
    "rest": "the spectrum encoder of the rest-frame model",
}
TRAIN_DESCRIPTION = """\
Train encoders. Without --pairs, the recipe's pairs are simulated into WORKSPACE first. Run again
after an interruption, it goes on from the last finished shard and epoch; processes that torchrun
starts share each batch. Logs: WORKSPACE/*/logs/version_*/metrics.csv."""
TRAIN_EXAMPLE = """\
  astroclip train work
  astroclip train work --objective heads --recipe small-heads --start work/run/last.ckpt
  astroclip train work --objective rest --start work/run/last.ckpt
  astroclip train work --pairs survey.h5 --validation held_out.h5 --recipe mine.toml
  torchrun --nproc-per-node 2 -m -- astroclip.cli train work"""
BUNDLE_EXAMPLE = "  astroclip bundle work out --recipe small-heads"


def add_parser(subparsers):
    """Add ``train`` and ``bundle`` to the command line's subparsers."""
    train = add_command(
        subparsers, "train", run_train,
        help="train encoders on simulated pairs or on your own (extras: train, simulate)",
        description=TRAIN_DESCRIPTION, example=TRAIN_EXAMPLE,
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
        help="weights to start from: a bundled model's name, .safetensors or .ckpt; may be given "
        "again",
    )
    train.add_argument(
        "--workers", type=positive_integer, default=1, help="processes that simulate"
    )
    train.add_argument(
        "--threads", type=positive_integer, default=None, help="threads that train"
    )
    bundle = add_command(
        subparsers, "bundle", run_bundle,
        help="write weights and reference table of a trained workspace",
        description="Write a trained model as a weights file that every command takes as --model, "
        "and a table of embeddings that they take as --reference.",
        example=BUNDLE_EXAMPLE,
    )
    bundle.add_argument("workspace", help="folder that `astroclip train` filled")
    bundle.add_argument("output", help="folder for the files")
    bundle.add_argument("--recipe", default="small", help="the recipe it was trained with")
    bundle.add_argument(
        "--pairs", nargs="+", default=None, metavar="SOURCE",
        help="your own pairs for the reference; by default those of the training",
    )
    bundle.add_argument(
        "--validation", default=None, metavar="SOURCE",
        help="held-out pairs to calibrate redshifts on; by default those of the training",
    )


def run_train(options):
    """Simulate or read pairs and train; return the exit status."""
    from astroclip.training.run import train

    train(
        options.objective, options.recipe, options.workspace, pairs=options.pairs,
        validation=options.validation, start=options.start, n_workers=options.workers,
        n_threads=options.threads, show_progress=True,
    )
    return 0


def run_bundle(options):
    """Write the files of every objective that was trained; return the exit status."""
    from astroclip.training.bundle import write_bundle
    from astroclip.training.data import Workspace
    from astroclip.training.objective import find_checkpoint
    from astroclip.training.recipe import read_recipe

    workspace = Workspace(options.workspace, read_recipe(options.recipe))
    own = {"pairs": options.pairs, "validation": options.validation}
    write_bundle(workspace, options.output, **own)
    if find_checkpoint(workspace.folder / workspace.recipe.rest.folder) is not None:
        write_bundle(workspace, options.output, objective="rest", **own)
    return 0

"""The command ``astroclip train``: simulate pairs, train on them, resume, bundle the result."""

__all__ = ["add_parser"]


def add_parser(subparsers):
    """Add ``train`` and ``bundle`` to the command line's subparsers."""
    train = subparsers.add_parser(
        "train",
        help="train an aligned model on simulated pairs (extras: train, simulate)",
        description="Simulate the recipe's pairs into WORKSPACE and train on them. Run again "
        "after an interruption, it goes on from the last finished shard and epoch.",
    )
    train.add_argument("workspace", help="folder for pairs, checkpoints and logs")
    train.add_argument("--recipe", default="small", help="small (the bundled model) or tiny")
    train.add_argument(
        "--start", default=None, help="weights to start from: a .safetensors file or a checkpoint"
    )
    train.add_argument("--workers", type=int, default=1, help="processes that simulate")
    train.add_argument("--threads", type=int, default=None, help="threads that train")
    train.set_defaults(run=run_train)
    bundle = subparsers.add_parser(
        "bundle",
        help="write weights, reference table and model card of a trained workspace",
    )
    bundle.add_argument("workspace", help="folder that `astroclip train` filled")
    bundle.add_argument("output", help="folder for the files, astroclip/data to ship them")
    bundle.add_argument("--recipe", default="small", help="the recipe it was trained with")
    bundle.add_argument("--real-data", default=None, help="folder of real spectra to score")
    bundle.set_defaults(run=run_bundle)


def run_train(arguments):
    """Simulate what is missing and train; return the exit status."""
    from astroclip.training.recipes import find_recipe
    from astroclip.training.run import train_alignment, train_refinement
    from astroclip.training.workspace import Workspace

    workspace = Workspace(arguments.workspace, find_recipe(arguments.recipe))
    workspace.simulate(n_workers=arguments.workers, show_progress=True)
    alignment = train_alignment(
        workspace.training_folders(),
        workspace.pairs_folder("validation"),
        workspace.checkpoints,
        recipe=workspace.recipe,
        start=arguments.start,
        n_threads=arguments.threads,
        show_progress=True,
    )
    if workspace.recipe.refinement:
        train_refinement(alignment, workspace, show_progress=True)
    return 0


def run_bundle(arguments):
    """Write the shippable files of a trained workspace; return the exit status."""
    from astroclip.training.bundle import write_bundle
    from astroclip.training.recipes import find_recipe
    from astroclip.training.workspace import Workspace

    workspace = Workspace(arguments.workspace, find_recipe(arguments.recipe))
    write_bundle(
        workspace,
        arguments.output,
        recipe_name=arguments.recipe,
        real_data=arguments.real_data,
    )
    return 0

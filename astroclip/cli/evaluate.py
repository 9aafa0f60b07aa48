"""The command ``astroclip evaluate``: score a model and write table and figure."""

from pathlib import Path

from astroclip._files import written
from astroclip._validation import check_integer
from astroclip.cli.options import add_command
from astroclip.cli.output import say

__all__ = ["add_parser", "run_evaluate"]

N_TEST = 2000
REFERENCE_PER_TEST = 10
TEST_SEED, REFERENCE_SEED = 9001, 9002  # unlike any training set's
DESCRIPTION = """\
Score a model beside baselines, and write the scores as a table and a figure. Pairs that are not
given are simulated (extra simulate, and the package bagpipes); a stopped run keeps the pairs that
it simulated."""
EXAMPLE = """\
  astroclip evaluate --simulate 500
  astroclip evaluate --model my.safetensors --pairs held-out --reference pairs"""
TABLE_NAME, FIGURE_NAME = "evaluation.ecsv", "evaluation.png"
# other models that are scored beside: option, name in the table, help
OTHERS = (
    ("image-only", "image-only encoder", "image-only self-supervised encoder: weights"),
    ("self-supervised", "aligned without labels", "model aligned without labels: weights"),
    (
        "supervised-spectrum", "supervised spectrum encoder",
        "supervised spectrum encoder: .npz of predictions for the pairs",
    ),
    (
        "supervised-image", "supervised image encoder",
        "supervised image encoder: .npz of predictions for the pairs",
    ),
    ("rest-frame", "rest-frame model", "model of rest-frame spectra: name or weights"),
)


def add_parser(subparsers):
    """Add ``evaluate`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "evaluate", run_evaluate,
        help="score a model on simulated pairs and real objects, beside baselines",
        description=DESCRIPTION, example=EXAMPLE,
    )
    parser.add_argument("--model", default="astroclip-small", help="name, file or hub id")
    parser.add_argument(
        "--pairs", default=None, metavar="FOLDER", help="pairs to score, not in the training set"
    )
    parser.add_argument(
        "--reference", default=None, nargs="+", metavar="FOLDER",
        help="pairs with known properties, searched for neighbors",
    )
    parser.add_argument(
        "--real-data", default=None, metavar="FOLDER",
        help="folder of real spectra and images to score",
    )
    parser.add_argument(
        "--output", default="astroclip-evaluation", metavar="FOLDER",
        help="folder of the table and the figure",
    )
    parser.add_argument(
        "--simulate", type=int, default=N_TEST, metavar="N",
        help=f"simulate N pairs to score, and {REFERENCE_PER_TEST} N for the reference",
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes that simulate")
    parser.add_argument(
        "--n-neighbors", "--neighbors", dest="neighbors", type=int, default=64, help="for estimates"
    )
    parser.add_argument("--scale", type=float, default=None, help="the model's inverse temperature")
    parser.add_argument("--seed", type=int, default=1000, help="seed of noise and baselines")
    for option, _, text in OTHERS:
        parser.add_argument(f"--{option}", default=None, metavar="MODEL", help=text)


def run_evaluate(options):
    """Evaluate, write the table and the figure, show R2; return the exit status."""
    from astroclip.evaluation.report import r2_table, write_score_figure
    from astroclip.evaluation.run import evaluate

    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    pairs, reference = options.pairs, options.reference
    if pairs is None:
        pairs = _simulate(options, output, "pairs", options.simulate, TEST_SEED)
    if reference is None:
        n_reference = REFERENCE_PER_TEST * options.simulate
        reference = [_simulate(options, output, "reference", n_reference, REFERENCE_SEED)]
    others = {label: vars(options)[name.replace("-", "_")] for name, label, _ in OTHERS}
    table = evaluate(
        pairs,
        reference,
        model=options.model,
        real_data=options.real_data,
        others={label: source for label, source in others.items() if source is not None},
        n_neighbors=options.neighbors,
        scale=options.scale,
        seed=options.seed,
        show_progress=True,
    )
    with written(output / TABLE_NAME) as partial:
        table.write(partial, format="ascii.ecsv", overwrite=True)
    write_score_figure(table, output / FIGURE_NAME)
    say("R2 of the held-out pairs")
    for line in r2_table(table).pformat(max_lines=-1, max_width=-1, align="<"):
        say(line.rstrip())
    say(f"wrote {output / TABLE_NAME} and {output / FIGURE_NAME}")
    return 0


def _simulate(options, output, name, n_pairs, seed):
    """Simulate the pairs of a data set that are missing; return its folder."""
    from astroclip.simulation.pairs import write_pairs

    folder = output / f"{name}-{check_integer(n_pairs, 'simulate')}"
    write_pairs(folder, n_pairs, seed=seed, n_workers=options.workers, show_progress=True)
    return folder

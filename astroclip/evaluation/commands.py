"""The command ``astroclip evaluate``: score a model and write table and figure."""

import argparse
import sys
from pathlib import Path

__all__ = ["add_parser"]

N_TEST = 2000
REFERENCE_PER_TEST = 10
TEST_SEED, REFERENCE_SEED = 9001, 9002  # unlike any training set's
EPILOG = """\
Examples:
  astroclip evaluate --simulate 500                  the bundled model, on pairs simulated now
  astroclip evaluate --model my.safetensors --pairs held-out --reference pairs
"""
TABLE_NAME, FIGURE_NAME = "evaluation.ecsv", "evaluation.png"


def add_parser(subparsers):
    """Add ``evaluate`` to the command line's subparsers."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a model on simulated pairs and real objects, beside baselines",
        description="Score a model by every protocol, with all baselines in the same run, and "
        "write the scores as a table and a figure. Pairs that are not given are simulated "
        "(extra simulate, and the package bagpipes); a stopped run keeps those it made.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="astroclip-small", help="name, file or hub id")
    parser.add_argument(
        "--pairs", default=None, metavar="FOLDER", help="held-out pairs that it never saw"
    )
    parser.add_argument(
        "--reference", default=None, nargs="+", metavar="FOLDER", help="pairs to estimate from"
    )
    parser.add_argument(
        "--real-data", default=None, metavar="FOLDER", help="folder of real objects"
    )
    parser.add_argument(
        "--output", default="astroclip-evaluation", metavar="FOLDER", help="for table and figure"
    )
    parser.add_argument(
        "--simulate", type=int, default=N_TEST, metavar="N",
        help=f"held-out pairs to simulate, and {REFERENCE_PER_TEST} N for reference",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    parser.add_argument(
        "--n-neighbors", "--neighbors", dest="neighbors", type=int, default=64, help="of estimates"
    )
    parser.add_argument("--scale", type=float, default=None, help="the model's inverse temperature")
    parser.add_argument("--seed", type=int, default=1000, help="of noise and baselines")
    for name, what in (
        ("image-only", "image-only self-supervised encoder: weights"),
        ("self-supervised", "model aligned without labels: weights"),
        ("supervised-spectrum", "supervised spectrum encoder: .npz of predictions for the pairs"),
        ("supervised-image", "the same of images"),
        ("rest-frame", "model of rest-frame spectra: name or weights"),
    ):
        parser.add_argument(f"--{name}", default=None, metavar="MODEL", help=what)
    parser.set_defaults(run=run_evaluate)


def run_evaluate(arguments):
    """Evaluate, write the table and the figure, show the goals; return the exit status."""
    from astroclip.evaluation.figures import write_score_figure
    from astroclip.evaluation.goals import OTHERS
    from astroclip.evaluation.report import goal_rows
    from astroclip.evaluation.run import evaluate

    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    pairs, reference = find_pairs(arguments, output)
    given = {label: getattr(arguments, name) for name, label in OTHERS.items()}
    table = evaluate(
        pairs,
        reference,
        model=arguments.model,
        real_data=arguments.real_data,
        others={label: source for label, source in given.items() if source is not None},
        n_neighbors=arguments.neighbors,
        scale=arguments.scale,
        seed=arguments.seed,
        show_progress=True,
    )
    write_scores(table, output / TABLE_NAME)
    write_score_figure(table, output / FIGURE_NAME)
    for what, goal, reached, met in goal_rows(table):
        mark = {"yes": "met", "no": "not met"}.get(met, "")
        sys.stdout.write(f"{what}: {reached} (goal: {goal}) {mark}".rstrip() + "\n")
    sys.stdout.write(f"wrote {output / TABLE_NAME} and {output / FIGURE_NAME}\n")
    return 0


def find_pairs(arguments, output):
    """Return the folders of held-out and reference pairs, simulated where not given."""
    pairs, reference = arguments.pairs, arguments.reference
    if pairs is None:
        pairs = simulate(output, "pairs", arguments.simulate, TEST_SEED, arguments.workers)
    if reference is None:
        n_reference = REFERENCE_PER_TEST * arguments.simulate
        reference = [
            simulate(output, "reference", n_reference, REFERENCE_SEED, arguments.workers)
        ]
    return pairs, reference


def simulate(output, name, n_pairs, seed, n_workers):
    """Simulate the pairs of a data set that are missing; return its folder."""
    from astroclip._validation import check_integer
    from astroclip.simulation.pairs import write_pairs

    folder = output / f"{name}-{check_integer(n_pairs, 'simulate')}"
    write_pairs(folder, n_pairs, seed=seed, n_workers=n_workers, show_progress=True)
    return folder


def write_scores(table, path):
    """Write a table of scores as ECSV, complete or not at all."""
    partial = path.with_name(path.name + ".part")
    table.write(partial, format="ascii.ecsv", overwrite=True)
    partial.replace(path)

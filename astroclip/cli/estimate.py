"""The command ``astroclip estimate``."""

import numpy as np

from astroclip.cli.inputs import load_index, model_of
from astroclip.cli.neighbors import PROPERTIES, asks_reference, load_queries
from astroclip.cli.options import (
    add_command,
    add_target_option,
    model_options,
    names,
    output_options,
    probability,
    query_options,
    search_options,
)
from astroclip.cli.output import check_output, exit_status, show, write_output

__all__ = ["add_parser", "run_estimate", "screen_version"]

N_NEIGHBORS = 16
DESCRIPTION = """\
Estimate properties of objects from their nearest reference objects, or redshifts by the model's
redshift head, with calibrated intervals. Inputs are files of spectra or images, which are embedded
first, or tables that `astroclip embed` wrote."""
EXAMPLE = """\
  astroclip estimate spec-0266-51602-0001.fits
  astroclip estimate embeddings.fits --properties redshift,log_ssfr --confidence 0.95
  astroclip estimate embeddings.fits --method head --output redshifts.ecsv
  astroclip estimate embeddings.fits --reference survey.fits --properties redshift"""


def add_parser(subparsers):
    """Add ``estimate`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "estimate", run_estimate, help="estimate properties, with intervals",
        description=DESCRIPTION, example=EXAMPLE,
        parents=(
            query_options(), search_options(n_neighbors=N_NEIGHBORS), model_options(),
            output_options(),
        ),
    )
    add_target_option(parser)
    group = parser.add_argument_group("estimates")
    group.add_argument(
        "--properties", type=names, default=None, metavar="NAME[,NAME...]",
        help=f"columns of the reference; by default those of {', '.join(PROPERTIES)} that it has",
    )
    group.add_argument(
        "--missing", type=names, action="extend", default=[], metavar="VALUE[,VALUE...]",
        help="values of these columns that stand for unknown ones, such as --missing=-9999,-99",
    )
    group.add_argument(
        "--method", choices=("neighbors", "head"), default="neighbors",
        help="mean of neighbors (default), or the model's redshift head",
    )
    group.add_argument(
        "--weights", choices=("distance", "uniform"), default="distance",
        help="weights of neighbors",
    )
    group.add_argument(
        "--confidence", type=probability, default=0.68, metavar="P",
        help="probability that an interval holds the truth (0.68 by default)",
    )


def run_estimate(options):
    """Estimate, write the estimates and show them; return the exit status."""
    check_output(options)
    index = load_index(options.reference, options.model)
    queries = load_queries(index, options)
    reference = chosen_rows(index.table, options.where)
    estimator, properties = fitted_estimator(reference, options)
    estimates = estimator.predict(queries, exclude_self=asks_reference(options))
    write_output(estimates, options)
    show(screen_version(estimates, properties), format=options.format, whole=estimates)
    return exit_status(queries)


def chosen_rows(table, where):
    """Return the rows of a reference that meet a condition; all if it is None."""
    if where is None:
        return table
    from astroclip.similarity.conditions import allowed_rows

    rows = allowed_rows(table, where=where)
    if not rows.any():
        msg = f"--where {where!r} is true of none of the reference's {len(table):,} rows."
        raise ValueError(msg)
    return table[rows]


def fitted_estimator(reference, options):
    """Return the estimator that the options ask for, fitted, and its properties."""
    from astroclip import PropertyEstimator, RedshiftEstimator

    if options.method == "head":
        model = options.model or model_of(reference, options.reference)
        estimator = RedshiftEstimator(model=model, confidence=options.confidence)
        estimator.fit(reference, "redshift", missing=options.missing)
        return estimator, ["redshift"]
    properties = options.properties or [n for n in PROPERTIES if n in reference.colnames]
    if not properties:
        there = ", ".join(name for name in reference.colnames if name != "embedding")
        msg = f"the reference has none of {', '.join(PROPERTIES)}; name --properties of {there}."
        raise ValueError(msg)
    estimator = PropertyEstimator(
        n_neighbors=options.n_neighbors, weights=options.weights, confidence=options.confidence
    )
    return estimator.fit(reference, properties, missing=options.missing), properties


def screen_version(estimates, properties):
    """Return estimates as text, an object a row: the value and its interval."""
    from astropy.table import Table

    rows = Table({"id": estimates["id"], "modality": estimates["modality"]})
    for name in properties:
        unit = estimates[name].unit if hasattr(estimates[name], "unit") else None
        columns = [
            getattr(estimates[f"{name}{suffix}"], "value", estimates[f"{name}{suffix}"])
            for suffix in ("", "_lower", "_upper")
        ]
        rows[name] = [
            f"{value:.3f} [{low:.3f}, {high:.3f}]" if value == value else "-"
            for value, low, high in zip(*columns, strict=True)
        ]
        rows[name].unit = unit
    if "out_of_distribution" in estimates.colnames:
        known = np.isfinite(np.ma.filled(np.ma.asarray(estimates["nearest_similarity"]), np.nan))
        rows["unusual"] = [
            ("yes" if value else "no") if is_known else "-"  # of a failed object nothing is known
            for value, is_known in zip(estimates["out_of_distribution"], known, strict=True)
        ]
    return rows

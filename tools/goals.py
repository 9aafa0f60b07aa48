"""What the bundled models are meant to reach, and what others reached on other data."""

import dataclasses
from collections.abc import Callable

from astroclip.evaluation.report import PROPERTY_NAMES
from astroclip.evaluation.run import ALL_REAL, HELD_OUT, N_RETRIEVED, SAME_GALAXY
from astroclip.evaluation.scores import find_score

ROUNDING = 1e-9  # differences smaller than this are none


@dataclasses.dataclass(frozen=True)
class Goal:
    """One figure to reach.

    Attributes
    ----------
    what : what is measured
    limit : the figure
    measure : function of a table of scores that returns what was reached, or None
    at_most : whether less is better
    strict : whether the limit itself is not enough
    """

    what: str
    limit: float
    measure: Callable
    at_most: bool = False
    strict: bool = False

    def met(self, value):
        """Return whether a value reaches the goal."""
        if abs(value - self.limit) < ROUNDING:
            return not self.strict
        return value < self.limit if self.at_most else value > self.limit


@dataclasses.dataclass(frozen=True)
class Published:
    """An R2 that others published, measured on other galaxies.

    Attributes
    ----------
    method, quantity : what was estimated from what
    label : the rows of our tables and figures that it may stand beside
    value : R2
    source : where it stands
    """

    method: str
    quantity: str
    label: str
    value: float
    source: str


# ---------------------------------------------------------------------- measures
def _r2(query, quantity, reference=None, *, protocol="k-NN", data=HELD_OUT, score="r2"):
    """Return the measure of one R2; the reference is the query's own modality by default."""
    reference = query if reference is None else reference
    where = {
        "protocol": protocol, "data": data, "query": query, "reference": reference,
        "property": quantity,
    }
    return lambda table: find_score(table, score, **where)


def _baseline(query, quantity, protocol="k-NN"):
    return _r2(query, quantity, "-", protocol=protocol)


def _combined(combine, *measures):
    """Return the measure that combines others, None where one was not measured."""

    def measure(table):
        values = [one(table) for one in measures]
        return None if None in values else combine(*values)

    return measure


def _better(first, second):
    return _combined(lambda a, b: a - b, first, second)


def _recall(n_best, names=("image", "spectrum"), data=HELD_OUT):
    """Return the measure of recall among 1,000 in the worse of both directions."""
    both = (
        lambda table, query=query, reference=reference: find_score(
            table, f"recall_{n_best}", data=data, query=query, reference=reference,
            n_reference=N_RETRIEVED,
        )
        for query, reference in (names, names[::-1])
    )
    return _combined(min, *both)


def _real(protocol, score):
    return lambda table: find_score(table, score, protocol=protocol, data=ALL_REAL)


def _rate(modality):
    return lambda table: find_score(table, "objects_per_second", query=modality)


ESTIMATED = ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity")
BOUND = ("photometry and true shapes", "gradient boosting")
IMAGE_ONLY, SELF_SUPERVISED = "image-only encoder", "aligned without labels"
REST_FRAME = "rest-frame model"
COMPONENTS = "spectrum, principal components"

LIMITS = {
    ("spectrum", "spectrum"): {
        "redshift": 0.99, "log_stellar_mass": 0.96, "log_ssfr": 0.88, "log_metallicity": 0.80,
    },
    ("image", "image"): {"redshift": 0.74, "log_stellar_mass": 0.87, "log_ssfr": 0.80},
    ("image", "spectrum"): {"redshift": 0.72, "log_stellar_mass": 0.85},
}
"""R2 of k-NN estimates to reach, by query and reference."""
RECALL_LIMITS = {1: 0.20, 10: 0.75}
"""Recall among 1,000 to reach in each direction, by the number of best ones."""

GOALS = (
    *(
        Goal(f"{query}{among}, R2 of {PROPERTY_NAMES[name]}", limit, _r2(query, name, reference))
        for (query, reference), limits in LIMITS.items()
        for among in ("" if query == reference else " among spectra",)
        for name, limit in limits.items()
    ),
    *(
        Goal(
            f"image, R2 of {PROPERTY_NAMES[name]} over that of boosted photometry and true shapes",
            0.95,
            _combined(lambda a, b: a / b, _r2("image", name), _baseline(BOUND[0], name, BOUND[1])),
        )
        for name in ESTIMATED[:3]
    ),
    Goal(
        "image, R2 of redshift above that of the image-only encoder",
        0.15,
        _better(_r2("image", "redshift"), _r2(f"{IMAGE_ONLY}: image", "redshift")),
    ),
    *(
        Goal(
            f"image, R2 of {PROPERTY_NAMES[name]} above that of photometry k-NN",
            0.0,
            _better(_r2("image", name), _baseline("photometry", name)),
            strict=True,
        )
        for name in ("redshift", "log_ssfr")
    ),
    *(
        Goal(
            f"spectrum, R2 of {PROPERTY_NAMES[name]} above that of principal components",
            0.0,
            _better(_r2("spectrum", name), _baseline(COMPONENTS, name)),
            strict=True,
        )
        for name in ESTIMATED
    ),
    *(
        Goal(
            f"without labels: {modality}, R2 of redshift",
            limit,
            _r2(f"{SELF_SUPERVISED}: {modality}", "redshift"),
        )
        for modality, limit in (("spectrum", 0.95), ("image", 0.70))
    ),
    *(
        Goal(f"recall@{n_best} among 1,000, worse direction", limit, _recall(n_best))
        for n_best, limit in RECALL_LIMITS.items()
    ),
    Goal(
        "one galaxy as DESI and as SDSS spectrum, recall@1 among 1,000",
        0.80,
        _recall(1, ("SDSS-like spectrum", "DESI-like spectrum"), SAME_GALAXY),
    ),
    Goal(
        "spectrum cut to 4500-8500 A, fall of the R2 of redshift",
        0.03,
        _r2("spectrum", "redshift", data="spectra cut to 4500-8500 A", score="r2_fall"),
        at_most=True,
    ),
    Goal("real spectra, k-NN, NMAD", 0.006, _real("k-NN", "nmad"), at_most=True),
    Goal("real spectra, k-NN, beyond 0.05", 0.15, _real("k-NN", "beyond_0.05"), at_most=True),
    *(
        Goal(f"real spectra, redshift head, {what}", limit, _real("redshift head", score), True)
        for what, score, limit in (
            ("NMAD", "nmad", 0.002),
            ("beyond 0.05", "beyond_0.05", 0.12),
            ("beyond 0.05 in the more confident half", "beyond_0.05_confident", 0.01),
        )
    ),
    Goal(
        "rest-frame spectrum, R2 of redshift (little of it should be left)",
        0.3,
        _r2(f"{REST_FRAME}: spectrum", "redshift"),
        at_most=True,
    ),
    Goal("rest-frame spectrum, R2 of log sSFR", 0.75, _r2(f"{REST_FRAME}: spectrum", "log_ssfr")),
    Goal("spectra embedded a second", 300, _rate("spectrum")),
    Goal("images embedded a second", 200, _rate("image")),
)
"""Figures to reach; the mutual-information bound is reported without one."""

README = "AstroCLIP README (Parker et al. 2024): DESI EDR and Legacy Survey"
WORKSHOP = "Lanusse, Parker et al. (2023), workshop version: DESI EDR and Legacy Survey"
STEIN = ("image-only encoder (Stein et al. 2021)", f"{IMAGE_ONLY}: image")
NETWORK = ("photometry, network", "photometry, few-shot")
ACROSS = ("across modalities", "image among spectra")
PUBLISHED = tuple(
    Published(method, quantity, label, value, source)
    for (method, label), quantity, value, source in (
        (("image", "image"), "redshift", 0.79, README),
        (("image", "image"), "mean of properties", 0.47, README),
        (("spectrum", "spectrum"), "redshift", 0.99, README),
        (("spectrum", "spectrum"), "mean of properties", 0.63, README),
        (STEIN, "redshift", 0.36, README),
        (STEIN, "mean of properties", 0.26, README),
        (NETWORK, "redshift", 0.68, README),
        (NETWORK, "mean of properties", 0.42, README),
        (("image", "image"), "redshift", 0.71, WORKSHOP),
        (("image", "image"), "log M*", 0.66, WORKSHOP),
        (("spectrum", "spectrum"), "redshift", 0.97, WORKSHOP),
        (("spectrum", "spectrum"), "log M*", 0.86, WORKSHOP),
        (ACROSS, "redshift", 0.64, WORKSHOP),
        (ACROSS, "log M*", 0.58, WORKSHOP),
    )
)
"""For context only: other galaxies, other selections, real noise."""

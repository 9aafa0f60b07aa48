"""From a name or a position to its spectra, images and catalogue rows."""

import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, vstack
from tqdm import tqdm

from astroclip._validation import check_choice, check_integer
from astroclip.archives.base import PRODUCTS, Settings, empty_catalog
from astroclip.archives.names import UnresolvedNameError, _name_or_coord, place_names, resolve
from astroclip.archives.registry import find_archives
from astroclip.archives.transport import ArchiveError, Transport
from astroclip.preparation.bands import canonical_band

__all__ = ["Target", "fetch", "fetch_many"]

FAILURE_COLUMNS = ("archive", "product", "reason", "advice")
UNEXPECTED = "the service may have changed: report it to astroclip with this message"


@dataclass(eq=False, repr=False)
class Target:
    """What archives hold on one object.

    Parameters
    ----------
    name : str
        As it was given, or made from the position.
    coord : `~astropy.coordinates.SkyCoord` or None
        ICRS; None if the name could not be resolved.
    spectra : list of `~specutils.Spectrum`
        Observed frame, vacuum; ``meta`` holds ``archive``, ``id``, ``medium``,
        ``redshift``, ``ra``, ``dec`` and ``credit``. ``astroclip.embed(target.spectra)``
        takes them.
    images : dict of str to `~astropy.nddata.CCDData`
        By band letter, all of one archive, in nanomaggies with WCS, centred on the position.
        ``astroclip.embed(target.images)`` takes them.
    catalog : `~astropy.table.QTable`
        A row per spectroscopic observation: columns ``archive``, ``id``, ``ra``, ``dec``,
        ``separation``, ``redshift``, ``redshift_error``, ``redshift_warning``, ``class`` and
        ``survey``.
    failures : `~astropy.table.QTable`
        A row per product that did not come: ``archive``, ``product``, ``reason`` and
        ``advice``.
    """

    name: str
    coord: SkyCoord | None
    spectra: list = field(default_factory=list)
    images: dict = field(default_factory=dict)
    catalog: QTable = field(default_factory=empty_catalog)
    failures: QTable = field(default_factory=lambda: _failure_table([]))

    def __repr__(self):
        place = "no position" if self.coord is None else self.coord.to_string("decimal")
        bands = "".join(self.images) or "no"
        return (
            f"<Target {self.name} ({place}): {len(self.spectra)} spectra, {bands} images, "
            f"{len(self.catalog)} catalogue rows, {len(self.failures)} failures>"
        )


def fetch(name_or_coord, *, n_workers=8, show_progress=False, **options):
    """Fetch what archives hold on an object.

    Archives are asked at the same time. Spectra and catalogue rows come from all of them;
    images from the first one that has all bands, in the order of ``archives``. What fails
    becomes a row of the result's table of failures.

    Parameters
    ----------
    name_or_coord : str or `~astropy.coordinates.SkyCoord`
        A name that Sesame knows (SIMBAD, NED, VizieR), or a position.
    n_workers : int, optional
        Requests at a time; no more than four of them to one host.
    show_progress : bool, optional
        Whether to draw a progress bar on the standard error stream.
    **options
        archives : sequence of str or `Archive`
            Names of `list_archives`, or archives of your own. By default
            ``("legacysurvey", "sdss", "desi", "panstarrs")``.
        products : sequence of str
            Of "spectra", "images", "catalog"; all by default.
        bands : sequence of str
            Bands of the images, g, r, z by default.
        size : int
            Pixels on a side of the images, 256 by default.
        pixel_scale : float
            Arcsec per pixel, 0.262 by default. SDSS and Pan-STARRS keep their own pixels and
            give the same width in arcsec.
        radius : float
            Arcsec around the position in which spectra are taken, 3 by default.
        max_spectra : int
            Spectra per archive, 5 by default, nearest first.
        timeout : float
            Seconds one request may take in all, 60 by default.
        n_retries : int
            Further tries after time-outs, broken connections and answers that the service
            is in trouble; 2 by default. An answer that there is nothing is final.
        retry_wait : float
            Seconds before the first of them, doubled each time; 1 by default.
        cache : bool
            Whether to use astropy's cache, True by default. Only whole, checked downloads
            are kept.

    Returns
    -------
    Target

    Raises
    ------
    UnresolvedNameError
        If the name has no known position.
    TypeError, ValueError
        For arguments that cannot be used.

    Examples
    --------
    >>> from astroclip.archives import fetch
    >>> target = fetch("NGC 4303")  # doctest: +REMOTE_DATA +IGNORE_OUTPUT
    """
    name, coord = _name_or_coord(name_or_coord, "name_or_coord")
    job = _Job(options, n_workers)
    try:
        coord = resolve(name, job.transport) if coord is None else coord.icrs
        (target,) = job.run([(name, coord)], show_progress=show_progress)
    finally:
        job.close()
    return target


def fetch_many(objects, *, n_workers=8, show_progress=False, **options):
    """Fetch what archives hold on many objects.

    Parameters
    ----------
    objects : `~astropy.table.Table`, `~astropy.coordinates.SkyCoord` or sequence
        A table with columns ``ra`` and ``dec`` (degrees) or ``name``; positions; or a list
        of names and positions.
    n_workers : int, optional
        Requests at a time; no more than four of them to one host.
    show_progress : bool, optional
        Whether to draw a progress bar on the standard error stream.
    **options
        Those of `fetch`.

    Returns
    -------
    targets : list of Target
        In input order. A name that cannot be resolved gives one without a position.
    failures : `~astropy.table.QTable`
        All their failures, with a column ``target`` (the name) in front.

    Raises
    ------
    TypeError, ValueError
        For arguments that cannot be used.
    """
    places = place_names(objects)
    job = _Job(options, n_workers)
    try:
        targets = job.run(job.resolve_all(places), show_progress=show_progress)
    finally:
        job.close()
    rows = [
        {"target": target.name, **dict(zip(FAILURE_COLUMNS, row, strict=True))}
        for target in targets
        for row in target.failures
    ]
    return targets, _failure_table(rows, ("target", *FAILURE_COLUMNS))


def _failure_table(rows, columns=FAILURE_COLUMNS):
    """Return a table of failures, which may be none."""
    return QTable({name: np.array([row[name] for row in rows], dtype=str) for name in columns})


# ---------------------------------------------------------------------- arguments
def _settings(options):
    """Return the `Settings` of keyword arguments; raise an error that names a bad one."""
    unknown = sorted(set(options) - set(Settings.__dataclass_fields__))
    if unknown:
        known = ["archives", "products", *Settings.__dataclass_fields__]
        msg = f"unexpected argument {unknown[0]!r}; expected some of {', '.join(known)}."
        raise TypeError(msg)
    checked = dict(options)
    for name, least in (("size", 1), ("max_spectra", 1), ("n_retries", 0)):
        if name in checked:
            checked[name] = check_integer(checked[name], name, minimum=least)
    for name in ("pixel_scale", "radius", "timeout", "retry_wait"):
        if name in checked:
            checked[name] = _positive(checked[name], name, zero=name == "retry_wait")
    if "bands" in checked:
        checked["bands"] = tuple(dict.fromkeys(canonical_band(band) for band in checked["bands"]))
        if not checked["bands"]:
            msg = "bands is empty; expected letters such as 'g', 'r', 'z'."
            raise ValueError(msg)
    return Settings(**checked)


def _positive(value, name, *, zero=False):
    """Return a number above zero (or zero, if allowed) as a float."""
    number = np.asarray(value)
    real = number.ndim == 0 and number.dtype.kind in "iuf"
    if not (real and np.isfinite(number) and (number > 0 or (zero and number == 0))):
        msg = f"{name} is {value!r}; expected a positive number."
        raise ValueError(msg)
    return float(number)


# ---------------------------------------------------------------------- work
class _Job:
    """The archives, settings and connection of one call."""

    def __init__(self, options, n_workers):
        options = dict(options)
        archives = find_archives(options.pop("archives", None))
        products = options.pop("products", None)
        products = PRODUCTS if products is None else products
        products = (products,) if isinstance(products, str) else tuple(products)
        for product in products:
            check_choice(product, PRODUCTS, "products")
        self.products = products
        self.n_workers = check_integer(n_workers, "n_workers")
        self.settings = _settings(options)
        self.transport = Transport.of(self.settings)
        self.archives = [item.connected(self.settings, self.transport) for item in archives]
        self.pool = ThreadPoolExecutor(self.n_workers, thread_name_prefix="astroclip-fetch")

    def close(self):
        """End what still runs, if the caller was interrupted, without waiting for it."""
        self.transport.stopped.set()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.transport.close()

    def resolve_all(self, places):
        """Return names with positions, or with the error that says why there is none."""
        return list(self.pool.map(self._try_resolve, places))

    def _try_resolve(self, place):
        name, coord = place
        try:
            return name, resolve(name, self.transport) if coord is None else coord.icrs
        except UnresolvedNameError as error:
            return name, error

    def run(self, places, *, show_progress):
        """Return the targets of names and positions, in order."""
        futures = {}
        for number, (_, coord) in enumerate(places):
            if isinstance(coord, SkyCoord):
                for task in self._tasks(coord):
                    futures[self.pool.submit(*task)] = number
        pending = set(futures)
        with tqdm(total=len(futures), disable=not show_progress, unit="archive",
                  file=sys.stderr) as progress:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                progress.update(len(done))
        results = [[] for _ in places]
        for future, number in futures.items():
            results[number].append(future.result())
        return [
            _make_target(*place, found) for place, found in zip(places, results, strict=True)
        ]

    def _tasks(self, coord):
        """Yield the calls that fetch one object's products."""
        rows = [product for product in ("catalog", "spectra") if product in self.products]
        if "images" in self.products and any("images" in a.products for a in self.archives):
            yield self._fetch_images, coord
        for archive in self.archives:
            given = [product for product in rows if product in archive.products]
            if given:
                yield self._fetch_rows, archive, coord, given

    def _fetch_rows(self, archive, coord, products):
        """Return an archive's spectra and catalogue rows, and failures."""
        result = {"failures": []}
        for product in products:
            function = getattr(archive, f"fetch_{product}")
            found, failure = _attempt(function, coord, archive.name, product)
            result[product] = found
            result["failures"] += failure
        return result

    def _fetch_images(self, coord):
        """Return the images of the first archive that has all bands, else of the best one."""
        best, failures = {}, []
        for archive in self.archives:
            if "images" not in archive.products:
                continue
            found, failure = _attempt(archive.fetch_images, coord, archive.name, "images")
            found, wanted = found or {}, self.settings.bands
            if not failure and len(found) < len(wanted):
                lacking = ", ".join(band for band in wanted if band not in found)
                failure = [_row(archive.name, "images", f"has no band {lacking} here",
                                "ask for other bands, or for another archive")]
            failures += failure
            if len(found) > len(best):
                best = found
            if len(best) == len(wanted):
                break
        return {"images": {b: best[b] for b in self.settings.bands if b in best},
                "failures": failures}


def _row(archive, product, reason, advice):
    return dict(zip(FAILURE_COLUMNS, (archive, product, reason, advice), strict=True))


def _attempt(function, coord, archive, product):
    """Return what a function gives, or the part that came, and rows of what failed."""
    try:
        return function(coord), []
    except ArchiveError as error:
        return error.partial, [_row(archive, product, error.reason, error.advice)]
    except Exception as error:  # one archive's surprise must not cost the others' products
        reason = f"gave something unexpected ({type(error).__name__}: {error})"
        return None, [_row(archive, product, reason, UNEXPECTED)]


def _make_target(name, coord, results):
    """Return the target of all archives' results."""
    if not isinstance(coord, SkyCoord):
        row = _row("sesame", "name", coord.reason, coord.advice)
        return Target(name, None, failures=_failure_table([row]))
    spectra, images, catalogs, failures = [], {}, [], []
    for result in results:
        spectra += result.get("spectra") or []
        images |= result.get("images") or {}
        catalogs += [result["catalog"]] if result.get("catalog") is not None else []
        failures += result["failures"]
    for image in images.values():
        image.meta["id"] = name
    catalog = empty_catalog()
    if catalogs:
        catalog = vstack(catalogs, metadata_conflicts="silent")
    return Target(name, coord, spectra, images, catalog, _failure_table(failures))

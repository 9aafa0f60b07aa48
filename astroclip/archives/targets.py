"""From a name or a position to its spectra, images and catalog rows, and to its neighbors."""

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable, vstack
from tqdm import tqdm

from astroclip._validation import check_choice, check_integer
from astroclip.archives.base import PRODUCTS, Settings, make_catalog
from astroclip.archives.names import (
    UnresolvedNameError,
    name_and_position,
    names_and_positions,
    resolve,
)
from astroclip.archives.registry import find_archives
from astroclip.archives.transport import ArchiveError, Transport
from astroclip.preparation.bands import canonical_band

__all__ = ["Target", "fetch", "fetch_many", "neighbors_of"]

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
        By band letter, all of one archive, in nanomaggies with WCS, centered on the position.
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
    catalog: QTable = field(default_factory=lambda: make_catalog([]))
    failures: QTable = field(default_factory=lambda: _failure_table([]))

    def __repr__(self):
        position = "no position" if self.coord is None else self.coord.to_string("decimal")
        bands = "".join(self.images) or "no"
        return (
            f"<Target {self.name} ({position}): {len(self.spectra)} spectra, {bands} images, "
            f"{len(self.catalog)} catalog rows, {len(self.failures)} failures>"
        )


def fetch(name_or_coord, *, n_workers=8, show_progress=False, **options):
    """Fetch what archives hold on an object.

    Archives are asked at the same time. Spectra and catalog rows come from all of them;
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
    name, coord = name_and_position(name_or_coord, "name_or_coord")
    with _Job(options, n_workers) as job:
        if coord is None:
            coord = resolve(name, job.transport)
        (target,) = job.run([(name, coord)], show_progress=show_progress)
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
    objects = names_and_positions(objects)
    with _Job(options, n_workers) as job:
        targets = job.run(list(job.pool.map(job.resolve, objects)), show_progress=show_progress)
    rows = [(target.name, *row) for target in targets for row in target.failures]
    return targets, _failure_table(rows, ("target", *FAILURE_COLUMNS))


def _failure_table(rows, columns=FAILURE_COLUMNS):
    """Return a table of failures, which may be none."""
    return QTable(np.array(rows, dtype=str).reshape(-1, len(columns)), names=columns)


def neighbors_of(
    target_or_name,
    index=None,
    n_neighbors=10,
    *,
    model="astroclip-small",
    modality=None,
    min_coverage=0.1,
    **options,
):
    """Return the neighbors of an object's spectra and image.

    Parameters
    ----------
    target_or_name : Target, str or `~astropy.coordinates.SkyCoord`
        What `fetch` returned, or takes.
    index : `~astroclip.SimilarityIndex`, optional
        Where to search; by default the bundled reference of simulated galaxies.
    n_neighbors : int, optional
        Neighbors of each spectrum and of the image.
    model : str, path-like or EmbeddingModel, optional
        The model of the index, see `astroclip.embed`.
    modality : str, optional
        Reference rows to search, see `astroclip.SimilarityIndex.query`.
    min_coverage : float, optional
        See `astroclip.embed`.
    **options
        Those of `fetch`, for a name or position.

    Returns
    -------
    `~astropy.table.QTable`
        See `astroclip.SimilarityIndex.query`, with a column ``query_modality`` after
        ``query_id``: first the spectra's neighbors, then the image's.

    Raises
    ------
    ValueError
        If nothing was fetched that the model takes; the message says why.
    TypeError
        For options of `fetch` beside a Target.
    ModelMismatchError
        If the index is of another model.
    """
    from astroclip.datasets import reference_table
    from astroclip.embedding import embed
    from astroclip.models.loading import load_model
    from astroclip.similarity import SimilarityIndex

    n_neighbors = check_integer(n_neighbors, "n_neighbors")
    if isinstance(target_or_name, Target):
        if options:
            msg = f"{sorted(options)[0]} is an option of fetch and a Target is fetched already."
            raise TypeError(msg)
        target = target_or_name
    else:
        target = fetch(target_or_name, **options)
    index = SimilarityIndex(reference_table()) if index is None else index
    loaded = load_model(model) if isinstance(model, str | Path) else model
    tables = []
    products = {"spectrum": target.spectra, "image": [target.images] if target.images else []}
    for query_modality, objects in products.items():
        if objects and query_modality in loaded.modalities:
            table = embed(objects, model=loaded, min_coverage=min_coverage)
            neighbors = index.query(table, n_neighbors, modality=modality)
            column = np.full(len(neighbors), query_modality)
            neighbors.add_column(column, name="query_modality", index=1)
            tables.append(neighbors)
    if not tables:
        rows = [f"{row['archive']} ({row['product']}): {row['reason']}" for row in target.failures]
        msg = (
            f"target {target.name} has no spectrum and no image that the model takes"
            + (f": {'; '.join(rows)}" if rows else "")
            + ". See target.failures for what to try."
        )
        raise ValueError(msg)
    return vstack(tables, metadata_conflicts="silent")


# ---------------------------------------------------------------------- arguments
def _settings(options):
    """Return the `Settings` of keyword arguments; raise an error that names a bad one."""
    names = [setting.name for setting in fields(Settings)]
    for name in options:
        if name not in names:
            known = ", ".join(["archives", "products", *names])
            msg = f"unexpected argument {name!r}; expected some of {known}."
            raise TypeError(msg)
    checked = dict(options)
    for name, least in (("size", 1), ("max_spectra", 1), ("n_retries", 0)):
        if name in checked:
            check_integer(checked[name], name, minimum=least)
    for name in ("pixel_scale", "radius", "timeout", "retry_wait"):
        if name in checked:
            value = np.asarray(checked[name])
            real = value.ndim == 0 and value.dtype.kind in "iuf" and np.isfinite(value)
            if not real or value < 0 or (value == 0 and name != "retry_wait"):
                msg = f"{name} is {checked[name]!r}; expected a positive number."
                raise ValueError(msg)
            checked[name] = float(value)
    if "bands" in checked:
        checked["bands"] = tuple(dict.fromkeys(canonical_band(band) for band in checked["bands"]))
        if not checked["bands"]:
            msg = "bands is empty; expected letters such as 'g', 'r', 'z'."
            raise ValueError(msg)
    return Settings(**checked)


# ---------------------------------------------------------------------- work
class _Job:
    """The archives, settings, connection and threads of one call."""

    def __init__(self, options, n_workers):
        options = dict(options)
        archives = find_archives(options.pop("archives", None))
        products = options.pop("products", None)
        products = PRODUCTS if products is None else products
        self.products = (products,) if isinstance(products, str) else tuple(products)
        for product in self.products:
            check_choice(product, PRODUCTS, "products")
        n_workers = check_integer(n_workers, "n_workers")
        self.settings = _settings(options)
        self.transport = Transport.of(self.settings)
        self.archives = [item.connected(self.settings, self.transport) for item in archives]
        self.pool = ThreadPoolExecutor(n_workers, thread_name_prefix="astroclip-fetch")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # what still runs, if the caller was interrupted, is ended and not waited for
        self.transport.stopped.set()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.transport.close()

    def resolve(self, item):
        """Return a name with its position, or with the error that says why there is none."""
        name, coord = item
        try:
            return name, resolve(name, self.transport) if coord is None else coord
        except UnresolvedNameError as error:
            return name, error

    def run(self, objects, *, show_progress):
        """Return the targets of names and positions, in order."""
        with_images = any("images" in archive.products for archive in self.archives)
        tasks = [[] for _ in objects]
        for (_, coord), mine in zip(objects, tasks, strict=True):
            if not isinstance(coord, SkyCoord):
                continue
            if "images" in self.products and with_images:
                mine.append(self.pool.submit(self._fetch_images, coord))
            for archive in self.archives:
                wanted = set(self.products) & set(archive.products)
                products = [product for product in ("catalog", "spectra") if product in wanted]
                if products:
                    mine.append(self.pool.submit(self._fetch_rows, archive, coord, products))
        submitted = [task for mine in tasks for task in mine]
        for _ in tqdm(as_completed(submitted), total=len(submitted), disable=not show_progress,
                      unit="archive", file=sys.stderr):  # fmt: skip
            pass
        targets = []
        for (name, coord), mine in zip(objects, tasks, strict=True):
            if isinstance(coord, SkyCoord):
                targets.append(_make_target(name, coord, [task.result() for task in mine]))
            else:  # the error that says why the name has no position
                row = ("sesame", "name", coord.reason, coord.advice)
                targets.append(Target(name, None, failures=_failure_table([row])))
        return targets

    def _fetch_rows(self, archive, coord, products):
        """Return an archive's spectra and catalog rows, and failures."""
        result = {"failures": []}
        for product in products:
            fetch_product = getattr(archive, f"fetch_{product}")
            result[product], failures = _attempt(fetch_product, coord, archive.name, product)
            result["failures"] += failures
        return result

    def _fetch_images(self, coord):
        """Return the images of the first archive that has all bands, else of the best one."""
        best, failures, wanted = {}, [], self.settings.bands
        for archive in self.archives:
            if "images" not in archive.products:
                continue
            images, failed = _attempt(archive.fetch_images, coord, archive.name, "images")
            images = images or {}
            lacking = [band for band in wanted if band not in images]
            if lacking and not failed:
                reason = f"has no band {', '.join(lacking)} here"
                advice = "ask for other bands, or for another archive"
                failed = [(archive.name, "images", reason, advice)]
            failures += failed
            if len(images) > len(best):
                best = images
            if not lacking:
                break
        return {"images": {b: best[b] for b in wanted if b in best}, "failures": failures}


def _attempt(function, coord, archive, product):
    """Return what a function gives, or the part that came, and rows of what failed."""
    try:
        return function(coord), []
    except ArchiveError as error:
        return error.partial, [(archive, product, error.reason, error.advice)]
    except Exception as error:  # one archive's surprise must not cost the others' products
        reason = f"gave something unexpected ({type(error).__name__}: {error})"
        return None, [(archive, product, reason, UNEXPECTED)]


def _make_target(name, coord, results):
    """Return the target of all archives' results."""
    spectra, images, failures, catalogs = [], {}, [], [make_catalog([])]
    for result in results:
        spectra += result.get("spectra") or []
        images |= result.get("images") or {}
        failures += result["failures"]
        if result.get("catalog") is not None:
            catalogs.append(result["catalog"])
    for image in images.values():
        image.meta["id"] = name
    catalog = vstack(catalogs, metadata_conflicts="silent")
    return Target(name, coord, spectra, images, catalog, _failure_table(failures))

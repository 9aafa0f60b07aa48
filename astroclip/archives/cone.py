"""From a name to its neighbours in one call."""

from pathlib import Path

import numpy as np
from astropy.table import vstack

from astroclip._validation import check_integer
from astroclip.archives.targets import Target, fetch

__all__ = ["neighbors_of"]


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
    """Return the neighbours of an object's spectra and image.

    Parameters
    ----------
    target_or_name : Target, str or `~astropy.coordinates.SkyCoord`
        What `fetch` returned, or takes.
    index : `~astroclip.SimilarityIndex`, optional
        Where to search; by default the bundled reference of simulated galaxies.
    n_neighbors : int, optional
        Neighbours of each spectrum and of the image.
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
        ``query_id``: first the spectra's neighbours, then the image's.

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
    for kind, objects in (("spectrum", target.spectra), ("image", [target.images])):
        if not objects or not objects[0] or kind not in loaded.modalities:
            continue
        table = embed(objects, model=loaded, min_coverage=min_coverage)
        found = index.query(table, n_neighbors, modality=modality)
        found.add_column(np.full(len(found), kind), name="query_modality", index=1)
        tables.append(found)
    if not tables:
        raise ValueError(_nothing(target))
    return vstack(tables, metadata_conflicts="silent")


def _nothing(target):
    """Return a message that says why there is nothing to search with."""
    rows = [f"{row['archive']} ({row['product']}): {row['reason']}" for row in target.failures]
    return (
        f"target {target.name} has no spectrum and no image that the model takes"
        + (f": {'; '.join(rows)}" if rows else "")
        + ". See target.failures for what to try."
    )

"""The reference that a search or an estimate compares with."""

from pathlib import Path

from astroclip.cli.inputs import is_embedding_table, read_embeddings

__all__ = ["load_index"]

DEFAULT_MODEL = "astroclip-small"


def load_index(reference, model):
    """Return the index to search.

    Parameters
    ----------
    reference : str or None
        A table of embeddings, an index that ``astroclip index build`` wrote, or None for the
        bundled galaxies.
    model : str or None
        The model whose bundled reference is wanted.

    Returns
    -------
    `~astroclip.SimilarityIndex`

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it is damaged, or the model has no bundled reference.
    """
    from astroclip import SimilarityIndex
    from astroclip.datasets import REFERENCE_FILES, reference_table

    if reference is None:
        model = model or DEFAULT_MODEL
        if model not in REFERENCE_FILES:
            msg = (
                f"model {model!r} has no bundled reference (only {', '.join(REFERENCE_FILES)} "
                f"have); pass --reference with a table of its embeddings."
            )
            raise ValueError(msg)
        return SimilarityIndex(reference_table(model))
    path = Path(reference).expanduser()
    if not path.exists():
        msg = f"--reference {reference!r} does not exist; expected a table of embeddings or index."
        raise FileNotFoundError(msg)
    if path.is_file() and is_embedding_table(path):
        return SimilarityIndex(read_embeddings(path))
    return SimilarityIndex.open(path)

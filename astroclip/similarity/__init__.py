"""Search by example: the nearest neighbours of embeddings in a reference table.

The rooms, from the inside out: ``vectors`` (unit vectors, rounding), ``cells`` (bounds that
spare rows), ``candidates`` and ``exact`` (the exact search), ``approximate`` (FAISS),
``devices`` (GPUs), ``store`` (the vectors in order) and ``searching`` (which search is used);
``columns``, ``files`` and ``saving`` (tables and files); ``ids``, ``expressions``, ``filters``,
``gap`` and ``queries`` (what is asked); ``results`` and ``groups`` (what is found); ``_indexed``
and ``index`` (the class that users see).
"""

from astroclip.similarity.exact import nearest_rows
from astroclip.similarity.index import SimilarityIndex
from astroclip.similarity.queries import set_embedder

__all__ = ["SimilarityIndex", "nearest_rows", "set_embedder"]

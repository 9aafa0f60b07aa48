"""Search by example: the nearest neighbors of embeddings in a reference table.

Modules: ``index`` (the public class `SimilarityIndex`), ``queries`` (query vectors and tables of
results), ``conditions`` (selection of rows), ``groups`` (all pairs), ``store`` (shards of vectors,
and a search of all of them), ``search`` and ``cells`` (the exact search), ``devices`` (the exact
search on a GPU), ``approximate`` (FAISS), ``files`` and ``columns`` (an index as a folder),
``vectors`` (unit vectors and their cosines).
"""

from astroclip.similarity.index import SimilarityIndex

__all__ = ["SimilarityIndex"]

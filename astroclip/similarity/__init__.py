"""Search by example: the nearest neighbors of embeddings in a reference table.

From the class that users see inwards: ``index`` (`SimilarityIndex`), ``queries`` (what is asked,
and the table of what was found), ``conditions`` (which rows may be found), ``groups`` (all
pairs), ``store`` (shards of vectors, and one search over them), ``search`` and ``cells`` (the
exact search), ``devices`` (the same on a GPU), ``approximate`` (FAISS), ``files`` and
``columns`` (an index as a folder), ``vectors`` (unit vectors and their cosines).
"""

from astroclip.similarity.index import SimilarityIndex

__all__ = ["SimilarityIndex"]

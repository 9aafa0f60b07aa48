"""Searches of a table of embeddings by examples, and for outliers.

`ExampleSearch` ranks a reference by a handful of labeled examples and asks for the labels
that help most; `OutlierDetector` scores how far objects are from a reference, against what
is usual in it. Both work on embedding tables alone and import no torch.
"""

from astroclip.discovery.examples import ExampleSearch
from astroclip.discovery.outliers import OutlierDetector

__all__ = ["ExampleSearch", "OutlierDetector"]

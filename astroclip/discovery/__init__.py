"""Searches of a table of embeddings by examples, and for outliers.

`ExampleSearch` ranks a table by a few labeled examples and suggests which objects to label
next; `OutlierDetector` scores the distance of objects from a reference, and its p-value. Both
work on embedding tables alone and import no torch.
"""

from astroclip.discovery.examples import ExampleSearch
from astroclip.discovery.outliers import OutlierDetector

__all__ = ["ExampleSearch", "OutlierDetector"]

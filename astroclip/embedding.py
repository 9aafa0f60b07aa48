"""Embed spectra and images: astropy objects in, one table out."""

import re
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.utils.console import ProgressBar

from astroclip import preparation, tables
from astroclip._objects import sort_objects
from astroclip._validation import check_choice, check_integer, check_length
from astroclip.exceptions import FailedObjectWarning, PreparationError
from astroclip.models.presets import PRESETS
from astroclip.tables import Flag

__all__ = ["embed", "list_models"]

CHUNK_SIZE = 512
PRECISIONS = ("float32", "bf16", "auto")


def embed(
    objects,
    *,
    model="astroclip-small",
    redshift=None,
    medium="vacuum",
    ids=None,
    position=None,
    zero_point=None,
    normalize=True,
    device=None,
    precision="float32",
    batch_size=None,
    min_coverage=0.1,
    show_progress=False,
):
    ...

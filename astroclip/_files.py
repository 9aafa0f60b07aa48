"""Write files complete or not at all."""

import contextlib
import hashlib
import os
from pathlib import Path

__all__ = ["file_sha256", "written"]


@contextlib.contextmanager
def written(path):
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    Parameters
    ----------
    path : path-like
        An existing file is replaced. The temporary name ends in the same suffix, so that
        writers that choose a format by it (astropy, matplotlib, `numpy.savez`) work.

    Yields
    ------
    `pathlib.Path`
        The temporary file. It is removed if the block raises: readers see the old file or
        the new one, never half of either, and processes that write the same file do not
        disturb each other.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # after a power cut the new name must not hold an empty file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_sha256(path):
    """Return the sha256 of a file as a hexadecimal string."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Errors and warnings raised by astroclip."""

from astropy.utils.exceptions import AstropyUserWarning

__all__ = [
    "AstroclipWarning",
    "CheckpointError",
    "FailedObjectWarning",
    "MissingExtraError",
    "ModelMismatchError",
    "PreparationError",
    "RejectedPairsWarning",
    "SuspiciousLabelWarning",
    "UnsafeCheckpointError",
]


class AstroclipWarning(AstropyUserWarning):
    """The base class of every warning astroclip gives."""


class FailedObjectWarning(AstroclipWarning):
    """Some objects of a batch could not be used; their rows stay, masked and flagged."""


class SuspiciousLabelWarning(AstroclipWarning):
    """Some labels, such as -9999 or "unknown", seem to stand for values that are not known."""


class RejectedPairsWarning(AstroclipWarning):
    """Some pairs of a source cannot be trained on and were left out.

    Parameters
    ----------
    message : str
        How many, and the first ones.
    rejected : sequence of str, optional
        Each of them: where it stands, its id and what is wrong with it.
    """

    def __init__(self, message, *, rejected=()):
        super().__init__(message)
        self.rejected = tuple(rejected)


class PreparationError(ValueError):
    """One object cannot be turned into model input.

    In a batch the object keeps its row and this error becomes the row's flag
    and message; for a single object, passed by itself, it is raised.

    Parameters
    ----------
    message : str
        Names the argument, the object's position, what was found, what was
        expected and one thing to do.
    flag : int, optional
        The bits of `astroclip.tables.Flag` that describe the failure; by default those of
        ``FAILED`` and ``BAD_INPUT``.
    """

    def __init__(self, message, *, flag=3):
        super().__init__(message)
        self.flag = int(flag)


class CheckpointError(ValueError):
    """A weights file is unreadable or does not fit the architecture asked for."""


class UnsafeCheckpointError(CheckpointError):
    """A weights file's pickle asks for something that could run code; nothing was run."""


class ModelMismatchError(ValueError):
    """Embeddings of different models or weights were about to be compared."""


class MissingExtraError(ImportError):
    """An optional dependency is needed; the message says which extra installs it."""

"""One door for pairs to train on: simulated shards, survey files, arrays of one's own."""

import itertools
import warnings

import numpy as np
from tqdm.auto import tqdm

from astroclip._validation import check_choice, check_integer
from astroclip.exceptions import RejectedPairsWarning
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.training.conversion import (
    LABEL_SHAPES,
    RawPairs,
    Rules,
    convert_pairs,
    unknown_labels,
)
from astroclip.training.pair_files import ShardPart, open_parts

__all__ = ["join_pairs", "read_source"]

COMMON = ("image", "seeing", "spectrum", "redshift", *LABEL_SHAPES, "id")
N_LISTED = 10
FIRST_CAPACITY = 1000


def read_source(
    source,
    *,
    split=None,
    n_pairs=None,
    noiseless=None,
    wavelength=None,
    pixel_scale=0.262,
    channels=None,
    min_coverage=0.1,
    show_progress=False,
):
    """Read pairs of images and spectra from anywhere, as training takes them.

    Recorded pairs (a survey's) come with the inverse variance and mask of their spectra,
    and no noise is to be drawn for them again; simulated ones are noiseless light. Both may
    be mixed: see Notes.

    Parameters
    ----------
    source : path-like, list of path-like, dict of arrays, or iterable of such dicts
        A folder of shards from `~astroclip.simulation.pairs.write_pairs`; an HDF5 file in
        AstroCLIP's layout (groups ``"0"``, ``"1"``, ... or none, each with datasets
        ``images``, ``spectra``, ``redshifts``, ``targetids``); a Parquet file (columns
        ``image``, ``spectrum``, ``redshift``, ``targetid`` of lists) or a folder of such
        files; several of these; or dicts with these names. ``ivar``, ``mask`` (not zero =
        bad), ``wavelength`` and the simulation's properties by name are optional, as are
        redshift and targetid; plural and singular names are both understood.
        Images are g, r, z in nanomaggies, (S, S, 3) or (3, S, S); spectra are observed
        1e-17 erg/s/cm2/A, (P,) or (P, 1).
    split : str, optional
        ``"train"`` or ``"test"``: the first four fifths of every group, file, shard or
        dict, or the rest, as AstroCLIP divides its file. Parquet files whose name or folder
        begins with one of these words belong to it as a whole.
    n_pairs : int, optional
        Read only the first ones.
    noiseless : bool, optional
        Whether pairs are noiseless light, to which training adds an instrument. By default
        shards and what `write_hdf5_pairs` and `write_parquet_pairs` made of them are, and
        all others are recorded. Noiseless pairs need ``seeing`` (N, 3), arcsec.
    wavelength : str or (P,) array-like, optional
        Vacuum Angstrom, or the name of a grid, of all spectra that come without; by default
        ``linspace(3600, 9824, 7781)`` for 7781 pixels and the model's own grid for 4360.
    pixel_scale : float
        Arcsec per pixel of the images: 0.524 or a whole fraction of it.
    channels : str, optional
        ``"first"`` or ``"last"``: the axis of the bands, by default the one of length 3;
        flat rows of images have it last.
    min_coverage : float
        Pairs are left out whose spectrum covers less than this fraction of the model's
        range, or whose image has fewer valid pixels.
    show_progress : bool

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``image`` (N, 3, 64, 64) float16, nanomaggies per 0.524 arcsec pixel, NaN where bad;
        ``seeing`` (N, 3) float32, arcsec, NaN for recorded pairs; ``spectrum`` (N, 4360)
        float16, 1e-17 erg/s/cm2/A on ``astroclip.simulation.spectrographs.WAVELENGTH``, zero
        where bad; ``redshift``, the simulation's other properties and ``fibre_magnitude``
        (N, 3), float32, NaN where unknown; ``id`` (N,) str. If any pair is recorded also
        ``ivar`` (N, 4360) float16 and ``mask`` (N, 4360) bool, True where bad. Of shards
        alone, also what else they hold.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If the source is missing, of no known kind, damaged or holds no usable pair.
    ~astroclip.exceptions.MissingExtraError
        If h5py or pyarrow is needed and not installed.

    Warns
    -----
    ~astroclip.exceptions.RejectedPairsWarning
        If pairs were left out: those without a valid pixel in image or spectrum, with a
        wrong shape or an impossible redshift. It counts them and says which.

    Notes
    -----
    Where recorded and noiseless pairs come together, the noiseless have infinite ivar
    throughout and an empty mask, and finite seeing:
    `~astroclip.training.observers.Observer` draws noise for these and only these.

    Images are cut to 33.5 arcsec and binned to 64 pixels, conserving flux; an output pixel
    is bad where less than half of it is valid, and a band that is zero throughout is
    missing. Spectra are resampled conserving flux (`~astroclip.preparation.resample_flux`).
    Without ivar it is estimated from the scatter of the pixels, and exact zeros are bad.

    Memory: the result (46 kB for a recorded pair) and one block of pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.training.sources import read_source
    >>> rng = np.random.default_rng(1)
    >>> pairs = read_source({
    ...     "image": rng.normal(0.1, 0.01, (2, 152, 152, 3)),
    ...     "spectrum": rng.normal(5, 1, (2, 7781)),
    ...     "redshift": [0.1, 0.2],
    ... })
    >>> pairs["image"].shape, pairs["spectrum"].shape, pairs["redshift"]
    ((2, 3, 64, 64), (2, 4360), array([0.1, 0.2], dtype=float32))
    """
    check_choice(split, (None, "train", "test"), "split")
    if n_pairs is not None:
        n_pairs = check_integer(n_pairs, "n_pairs")
    rules = Rules(wavelength, pixel_scale, channels, min_coverage).checked()
    parts = open_parts(source, noiseless)
    table = _PairTable(parts, n_pairs)
    rejected = []
    incomplete = [line for part in parts for line in part.incomplete]
    blocks = itertools.chain.from_iterable(part.blocks(split) for part in parts)
    with tqdm(total=table.n_expected, unit="pair", disable=not show_progress) as progress:
        for block in blocks:
            if isinstance(block, RawPairs):
                block, lines = convert_pairs(block, rules)
                rejected.extend(lines)
            progress.update(table.append(block))
            if table.is_full:
                break
    _report(rejected, incomplete, table.n_pairs, split)
    return table.arrays()


def _with_errors(pairs):
    """Return pairs with ivar and mask: infinite and empty where they have none, as noiseless."""
    shape = (len(pairs["redshift"]), len(WAVELENGTH))
    noiseless = {
        "ivar": np.broadcast_to(np.float16(np.inf), shape), "mask": np.broadcast_to(False, shape)
    }
    return dict(pairs) if "ivar" in pairs else {**pairs, **noiseless}


def join_pairs(parts):
    """Return several dicts of pairs as one, recorded and noiseless ones told apart.

    Parameters
    ----------
    parts : sequence of dict of str to `numpy.ndarray`
        As `read_source` returns them, with further arrays at will.

    Returns
    -------
    dict of str to `numpy.ndarray`
        The arrays that all have. Where some have ivar and mask, the others are noiseless
        and get infinite ivar and an empty mask.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.training.sources import join_pairs
    >>> simulated = {"redshift": np.zeros(1), "magnitude": np.zeros(1)}
    >>> recorded = {"redshift": np.ones(1), "ivar": np.ones((1, 4360)), "mask": np.zeros((1, 4360))}
    >>> joined = join_pairs([simulated, recorded])
    >>> list(joined), joined["ivar"][:, 0]
    (['redshift', 'ivar', 'mask'], array([inf,  1.]))
    """
    if any("ivar" in part for part in parts):
        parts = [_with_errors(part) for part in parts]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _report(rejected, incomplete, n_pairs, split):
    """Warn of what was left out; raise ValueError if nothing stays."""
    lines = [*incomplete, *rejected]
    listed = "; ".join(lines[:N_LISTED])
    if len(lines) > N_LISTED:
        listed += f"; and {len(lines) - N_LISTED} more, in the warning's attribute rejected"
    if n_pairs == 0:
        what = f"the split {split!r} of source" if split else "source"
        reason = f"all {len(rejected)} were left out: {listed}" if rejected else "it is empty"
        msg = f"{what} holds no usable pair: {reason}."
        raise ValueError(msg)
    if lines:
        counted = [f"{len(rejected)} of {len(rejected) + n_pairs} pairs"] if rejected else []
        counted += [f"{len(incomplete)} groups"] if incomplete else []
        msg = f"{' and '.join(counted)} cannot be trained on and are left out: {listed}."
        warnings.warn(RejectedPairsWarning(msg, rejected=lines), stacklevel=3)


class _PairTable:
    """Arrays of pairs that blocks are appended to, as large as the parts say they get."""

    def __init__(self, parts, n_wanted):
        self.n_wanted = n_wanted
        self.n_pairs = 0
        sizes = [part.n_pairs for part in parts]
        expected = None if None in sizes else sum(sizes)
        wanted = [size for size in (expected, n_wanted) if size is not None]
        self.n_expected = min(wanted) if wanted else None
        self.has_recorded = not all(part.noiseless for part in parts)
        self.keeps_all = all(isinstance(part, ShardPart) for part in parts)
        self._arrays = {}
        self._ids = []

    @property
    def is_full(self):
        """Whether there are as many pairs as wanted."""
        return self.n_wanted is not None and self.n_pairs >= self.n_wanted

    def append(self, block):
        """Append a block of pairs as far as it is wanted; return how many were."""
        n_new = len(block["redshift"])
        if self.n_wanted is not None:
            n_new = min(n_new, self.n_wanted - self.n_pairs)
        block = self._completed(block)
        self._ids.extend(block.pop("id")[:n_new])
        if not self._arrays:
            capacity = max(self.n_expected or FIRST_CAPACITY, n_new)
            self._arrays = {
                name: np.empty((capacity, *values.shape[1:]), values.dtype)
                for name, values in block.items()
            }
        end = self.n_pairs + n_new
        for name, values in block.items():
            self._reserve(name, end)
            self._arrays[name][self.n_pairs : end] = values[:n_new]
        self.n_pairs = end
        return n_new

    def _reserve(self, name, n_pairs):
        """Make room for ``n_pairs`` in one array."""
        full = self._arrays[name]
        if n_pairs > len(full):
            larger = np.empty((max(n_pairs, 3 * len(full) // 2), *full.shape[1:]), full.dtype)
            larger[: self.n_pairs] = full[: self.n_pairs]
            self._arrays[name] = larger

    def _completed(self, block):
        """Return a block with the columns of this table."""
        n_pairs = len(block["redshift"])
        if not self.keeps_all:
            block = {**unknown_labels(n_pairs), **block}  # old shards lack some
            block = {name: block[name] for name in (*COMMON, "ivar", "mask") if name in block}
        return _with_errors(block) if self.has_recorded else dict(block)

    def arrays(self):
        """Return the pairs."""
        arrays = {name: values[: self.n_pairs] for name, values in self._arrays.items()}
        return {**arrays, "id": np.array(self._ids, dtype=str)}

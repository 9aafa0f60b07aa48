"""Loading models by name, file or hub id, and running them over arrays in batches."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from astroclip._files import file_sha256
from astroclip._validation import check_choice, check_integer
from astroclip.exceptions import CheckpointError
from astroclip.models.architectures import (
    ATTENTION_HEADS,
    BUILDERS,
    build_model,
    fit_preset,
    identify_architecture,
    model_tensors,
    recorded_heads,
)
from astroclip.models.checkpoints import read_checkpoint
from astroclip.models.presets import PRESETS
from astroclip.models.weights import find_weights, read_safetensors
from astroclip.preparation.resampling import bridge_gaps

__all__ = ["EmbeddingModel", "load_model", "select_device"]

PRECISIONS = ("float32", "bf16")
CPU_BATCH, GPU_BATCH = 16, 512  # objects in a pass: of each thread of a CPU, of a GPU
LARGE = 10_000_000  # parameters; networks beyond it are worth several threads for one object


def select_device(device=None):
    """Return a device that is there: the one asked for, else CUDA, then MPS, then the CPU.

    Parameters
    ----------
    device : str or `torch.device`, optional

    Returns
    -------
    `torch.device`

    Raises
    ------
    ValueError
        If the device is unknown or not available.

    Examples
    --------
    >>> from astroclip.models import select_device
    >>> select_device("cpu")
    device(type='cpu')
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device is None:
        return torch.device(next(name for name, there in available.items() if there))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        msg = f"device is {device!r}; expected one of {', '.join(available)}, such as 'cpu'."
        raise ValueError(msg) from error
    beyond = chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()
    if not available.get(chosen.type, False) or beyond:
        usable = ", ".join(name for name, there in available.items() if there)
        msg = f"device is {device!r}, which is not available here; expected one of {usable}."
        raise ValueError(msg)
    return chosen


# ---------------------------------------------------------------------- threads and processes
# Objects are divided among threads that compute with one intra-op thread each. With several, the
# threads of OpenMP meet at a barrier after every operation, and libgomp, which torch brings along,
# lets those that wait there spin for 300,000 rounds (3 to 20 ms) before they sleep: while another
# process has the core of the last one, the others burn theirs, and the scheduler takes it from
# them next. Measured with the small model on two cores, quiet and beside one busy process: 364
# and 106 spectra/s (and 0.17 s for a spectrum alone instead of 0.008 s) with two intra-op threads,
# using 1.3 and 3.0 s of processor time; with GOMP_SPINCOUNT=0, which has to be set before torch is
# imported, 231 and 160. Called from a second thread after the first, the two kept 170 spectra/s:
# libgomp then manages more threads than there are cores, and lets them spin for 100 rounds only.
# `benchmarks/processes.py` measures this anew.
_setting_threads = threading.Lock()


def _set_own_threads(number):
    """Give the calling thread a number of intra-op threads, and leave that of others as it is.

    Torch gives the number to all threads, too, that compute for the first time afterwards: one
    such thread puts back what these would have got.
    """
    torch.get_num_threads()  # at a thread's first computation torch gives it what others get
    with _setting_threads, ThreadPoolExecutor(1) as other:
        given = other.submit(torch.get_num_threads).result()
        torch.set_num_threads(number)
        other.submit(torch.set_num_threads, given).result()


@contextlib.contextmanager
def _one_thread():
    """Compute with one intra-op thread in the calling thread."""
    own = torch.get_num_threads()
    _set_own_threads(1)
    try:
        yield
    finally:
        _set_own_threads(own)


def _after_fork():
    """Let a forked process compute with one thread.

    OpenMP's threads do not live on in it, and the next operation would wait for them forever.
    """
    _setting_threads.release()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_setting_threads.acquire,
        after_in_parent=_setting_threads.release,
        after_in_child=_after_fork,
    )


@contextlib.contextmanager
def _true_float32():
    """Switch off TF32 convolutions and matrix products of GPUs, which keep 10 bits."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


class EmbeddingModel:
    """A loaded model: arrays in, embeddings out.

    Parameters
    ----------
    network : `~astroclip.models.layers.TwoTower`
    preset : `~astroclip.models.presets.ModelPreset`
    weights_sha256 : str
    device : `torch.device`
    path : `pathlib.Path`, optional
        The weights file, where ``astroclip.redshifts`` finds redshift heads.

    Attributes
    ----------
    name : str
    modalities : tuple of str
    dim : int
        Length of an embedding.
    n_parameters : int
        Of the network.
    """

    def __init__(self, network, preset, *, name, weights_sha256, device, path=None):
        self.network = network.to(device)
        self.preset = preset
        self.name = name
        self.weights_sha256 = weights_sha256
        self.device, self.path = device, path
        towers = {"spectrum": network.spectrum_encoder, "image": network.image_encoder}
        self.modalities = tuple(key for key, tower in towers.items() if tower is not None)
        self.n_parameters = sum(parameter.numel() for parameter in network.parameters())
        self.dim = self._measure_dim()

    def __repr__(self):
        return (
            f"<EmbeddingModel {self.name!r}: {', '.join(self.modalities)} to {self.dim} values, "
            f"weights {self.weights_sha256[:12]}, on {self.device}>"
        )

    def _measure_dim(self):
        """Return the length of an embedding, from one empty object."""
        if "image" in self.modalities:
            crop, n_bands = self.preset.image.crop, len(self.preset.image.bands)
            shape = (1, n_bands, crop, crop)
            return self.encode_images(np.zeros(shape, np.float32)).shape[1]
        n_pixels = getattr(self.network.spectrum_encoder, "n_pixels", 7781)  # else the DESI grid's
        zeros = np.zeros((1, n_pixels), np.float32)
        return self.encode_spectra(zeros).shape[1]

    def encode_spectra(
        self, flux, ivar=None, mask=None, *, batch_size=None, precision="float32",
        normalize=True, progress=None,
    ):
        """Embed spectra on the model's wavelength grid.

        Parameters
        ----------
        flux : (N, P) array-like
            1e-17 erg/s/cm2/A, finite everywhere.
        ivar, mask : (N, P) array-like, optional
            Inverse variance (ones by default) and True where a pixel is bad; short gaps are
            bridged, see ``astroclip.preparation.resampling.bridge_gaps``. Published models take
            neither into account.
        batch_size : int, optional
            Objects in the network at a time, divided among the threads of a CPU
            (`torch.get_num_threads` of the caller); by default 16 for each of these, and 512 on
            a GPU.
        precision : str
            ``"float32"`` or ``"bf16"`` (autocast).
        normalize : bool
            Scale embeddings to unit length.
        progress : callable, optional
            Called with the number of objects done after every batch.

        Returns
        -------
        (N, D) float32 `numpy.ndarray`
            A row does not depend on the others of its batch.
        """
        flux = np.asarray(flux)
        ivar = np.ones(flux.shape, np.float32) if ivar is None else ivar
        mask = np.zeros(flux.shape, bool) if mask is None else mask
        flux, ivar, mask = bridge_gaps(flux, np.asarray(ivar), np.asarray(mask, dtype=bool))
        return self._encode(
            "spectrum", (flux, ivar, mask), batch_size, precision, normalize, progress
        )

    def encode_images(
        self, pixels, mask=None, *, batch_size=None, precision="float32", normalize=True,
        progress=None,
    ):
        """Embed images in the model's normalization and crop.

        Parameters
        ----------
        pixels : (N, B, S, S) array-like
            From ``astroclip.preparation.normalize_images``.
        mask : (N, B, S, S) array-like, optional
            True where a pixel is bad. Published models do not take it into account.
        batch_size, precision, normalize, progress
            As in `encode_spectra`.

        Returns
        -------
        (N, D) float32 `numpy.ndarray`
        """
        pixels = np.asarray(pixels)
        mask = np.zeros(pixels.shape, bool) if mask is None else mask
        return self._encode("image", (pixels, mask), batch_size, precision, normalize, progress)

    def _encode(self, modality, arrays, batch_size, precision, normalize, progress):
        if modality not in self.modalities:
            msg = (
                f"model {self.name!r} has no {modality} encoder; it takes "
                f"{' and '.join(self.modalities)}."
            )
            raise ValueError(msg)
        check_choice(precision, PRECISIONS, "precision")
        n_objects, n_workers = len(arrays[0]), 1
        if self.device.type == "cpu":
            n_workers = torch.get_num_threads()
            if self.n_parameters > LARGE and n_objects < n_workers:
                n_workers = 1  # few large objects: the threads share the work on each
        if batch_size is None:
            batch_size = GPU_BATCH if self.device.type != "cpu" else n_workers * CPU_BATCH
        check_integer(batch_size, "batch_size")
        step = -(-min(batch_size, max(n_objects, 1)) // n_workers)  # objects in a pass
        passes = [slice(first, first + step) for first in range(0, n_objects, step)]

        def encode(rows):
            batch = [self._tensor(array[rows]) for array in arrays]
            with (  # each thread has modes of its own
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"),
            ):
                embedding = getattr(self.network, f"encode_{modality}")(*batch).float()
                if normalize:
                    embedding = torch.nn.functional.normalize(embedding, dim=1)
            return embedding.cpu().numpy()

        embeddings = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(_true_float32())
            run = map
            if n_workers > 1 and len(passes) <= 1:
                stack.enter_context(_one_thread())
            elif n_workers > 1:
                # made for this call: threads that wait for the next would be missing after a fork
                pool = ThreadPoolExecutor(
                    min(n_workers, len(passes)), initializer=_set_own_threads, initargs=(1,)
                )
                run = stack.enter_context(pool).map
            for rows, embedding in zip(passes, run(encode, passes), strict=True):
                embeddings.append(embedding)
                if progress is not None:
                    progress(min(rows.stop, n_objects))
        return np.concatenate(embeddings) if embeddings else np.empty((0, self.dim), np.float32)

    def _tensor(self, array):
        """Return an array on the device: bool as it is, numbers as native float32."""
        array = np.asarray(array)
        if array.dtype != bool:
            array = array.astype(np.float32, copy=False)
        return torch.from_numpy(np.array(array, order="C")).to(self.device)


def load_model(name="astroclip-small", *, device=None, preset=None, heads=None):
    """Load a model.

    Parameters
    ----------
    name : str or path-like
        A name of `astroclip.list_models`, a weights file (a checkpoint in a published
        layout, or safetensors), a folder with one, or a hub id such as
        ``"polymathic-ai/astroclip"``.
    device : str or `torch.device`, optional
        CUDA, MPS or the CPU, whichever is there first, by default.
    preset : str, optional
        Named model whose inputs and layout a file is to be read as; found from the
        file's tensors by default.
    heads : dict of str to int, optional
        Numbers of attention heads (``"image"``, ``"spectrum"``, ``"image_pooling"``,
        ``"spectrum_pooling"``) for files that do not record them; tensors do not show them.

    Returns
    -------
    `EmbeddingModel`

    Raises
    ------
    ValueError
        If the name, preset or device is unknown.
    FileNotFoundError, ConnectionError
        If the weights are not there and cannot be fetched.
    CheckpointError, UnsafeCheckpointError
        If a file cannot be used, or would run code.

    Examples
    --------
    >>> import astroclip
    >>> astroclip.load_model("astroclip-small", device="cpu").dim
    128
    """
    device = select_device(device)
    if preset is not None:
        preset = PRESETS[check_choice(preset, PRESETS, "preset")]
    for key in heads or {}:
        check_choice(key, ATTENTION_HEADS, "heads")
    path, named = find_weights(name)
    tensors, hyper_parameters, config = _read(path)
    architecture = config.get("architecture") or identify_architecture(tensors)
    if architecture not in list(BUILDERS):
        msg = (
            f"weights file {str(path)!r} is of architecture {architecture!r}; expected one of "
            f"{', '.join(BUILDERS)}."
        )
        raise CheckpointError(msg)
    if preset is None and (preset := named) is None:
        of_layout = [p for p in PRESETS.values() if p.architecture == architecture]
        prepared_as = config.get("preset", config.get("name"))
        preset = next((p for p in of_layout if p.name == prepared_as), of_layout[0])
    if preset.architecture != architecture:
        msg = (
            f"weights file {str(path)!r} is of architecture {architecture!r}; expected "
            f"{preset.architecture!r} for {preset.name!r}. Leave preset out, or use another file."
        )
        raise CheckpointError(msg)
    heads = recorded_heads(hyper_parameters) | dict(heads or {})
    if architecture == "astrodino" and "image" not in heads:
        heads |= _heads_of_aligned_model(path, tensors)
    records = hyper_parameters if isinstance(hyper_parameters, dict) else {}
    network = build_model(architecture, tensors, heads=heads, options={**records, **config})
    return EmbeddingModel(
        network,
        fit_preset(preset, network),
        name=named.name if named is not None else config.get("name", preset.name),
        weights_sha256=file_sha256(path),
        device=device,
        path=path,
    )


def _heads_of_aligned_model(path, tensors):
    """Return the image heads that a file beside this one records for the very same backbone.

    The aligned model is published with its image backbone frozen: where its tensors equal
    this file's, what it records holds here too. Empty if there is no such file.
    """
    backbone = {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    for other in sorted(path.parent.glob("*.ckpt")):
        if other == path:
            continue
        try:
            content = read_checkpoint(other)
            aligned = model_tensors(content)
        except (CheckpointError, OSError):
            continue
        pairs = [(value, aligned.get(f"image_encoder.{key}")) for key, value in backbone.items()]
        if all(twin is not None and torch.equal(value, twin) for value, twin in pairs):
            heads = recorded_heads(content.get("hyper_parameters"))
            return {"image": heads["image"]} if "image" in heads else {}
    return {}


def _read(path):
    """Return a file's tensors, hyper-parameters and configuration."""
    if path.suffix == ".safetensors":
        tensors, config = read_safetensors(path)
        return model_tensors(tensors), {}, config
    content = read_checkpoint(path)
    return model_tensors(content), content.get("hyper_parameters", {}), {}

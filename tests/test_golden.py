"""Published formats against the outputs of the reference implementation.

``ASTROCLIP_GOLDEN`` names another folder of the same files, of any dimensions.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from astroclip.models.loading import load_model
from astroclip.preparation import center_crop, normalize_images

FOLDER = Path(os.environ.get("ASTROCLIP_GOLDEN", Path(__file__).parent / "data" / "golden"))
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "io.npz") as file:
        return dict(file)


def load(name):
    return load_model(FOLDER / f"{name}.ckpt", device="cpu")


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE


def test_image_input(golden):
    images = np.ascontiguousarray(golden["image"].transpose(0, 3, 2, 1))  # (N, x, y, band)
    size = golden["image_rgb"].shape[-1]
    pixels = normalize_images(center_crop(images, size), bands="grz", normalization="astroclip")
    assert_close(pixels, golden["image_rgb"])


def test_aligned_image(golden):
    found = load("astroclip").encode_images(golden["image_rgb"], normalize=False)
    assert_close(found, golden["image_embedding"])


def test_aligned_spectrum(golden):
    found = load("astroclip").encode_spectra(golden["spectrum"], normalize=False)
    assert_close(found, golden["spectrum_embedding"])


def test_class_token(golden):
    found = load("astrodino").encode_images(golden["image_rgb"], normalize=False)
    assert_close(found, golden["astrodino_cls"])


def test_mean_token_and_reconstruction(golden):
    model = load("specformer")
    found = model.encode_spectra(golden["spectrum"], normalize=False)
    assert_close(found, golden["specformer_mean"])
    expected = golden["specformer_reconstruction"]
    flux = torch.from_numpy(golden["spectrum"][: len(expected)])
    assert_close(model.network.spectrum_encoder.backbone.reconstruct(flux).numpy(), expected)


@pytest.mark.parametrize("modality", ["spectrum", "image"])
def test_row_does_not_depend_on_its_batch(golden, modality):
    """Unit vectors agree to 1e-6: matrix products of other shapes round differently."""
    model = load("astroclip")
    encode = model.encode_spectra if modality == "spectrum" else model.encode_images
    rows = np.concatenate([golden["spectrum" if modality == "spectrum" else "image_rgb"]] * 5)
    together = encode(rows, batch_size=32)
    for number in (0, 3, len(rows) - 1):
        alone = encode(rows[number : number + 1])
        assert np.abs(alone[0] - together[number]).max() <= 1e-6


@pytest.mark.parametrize("modality", ["spectrum", "image"])
def test_bf16_accuracy(golden, modality):
    model = load("astroclip")
    encode = model.encode_spectra if modality == "spectrum" else model.encode_images
    rows = golden["spectrum" if modality == "spectrum" else "image_rgb"]
    cosine = (encode(rows) * encode(rows, precision="bf16")).sum(axis=1)
    assert cosine.min() > 0.999

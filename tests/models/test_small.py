"""The bundled model's encoders: masks, single rows and missing bands."""

import numpy as np
import pytest
import torch

from astroclip.models.small import (
    AttentionBlock,
    PointwiseConvolution,
    SidePath,
    SmallImageEncoder,
    SmallSpectrumEncoder,
    spectrum_channels,
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(1)
    return SmallSpectrumEncoder(width=16, dim=16).eval()


@pytest.fixture(scope="module")
def spectra():
    rng = np.random.default_rng(2)
    flux = torch.from_numpy(rng.normal(3, 1, (4, 4360))).float()
    ivar = torch.from_numpy(rng.uniform(0.5, 2, (4, 4360))).float()
    mask = torch.from_numpy(rng.random((4, 4360)) < 0.05)
    mask[1, 3000:] = True
    return flux, ivar, mask


def test_what_masked_pixels_hold_does_not_matter(encoder, spectra):
    flux, ivar, mask = spectra
    with torch.inference_mode():
        expected = encoder(flux, ivar, mask)
        changed = encoder(
            torch.where(mask, 1e6, flux), torch.where(mask, 7.0, ivar), mask
        )
    torch.testing.assert_close(changed, expected, rtol=0, atol=0)


def test_a_row_does_not_depend_on_its_batch(encoder, spectra):
    with torch.inference_mode():
        together = encoder(*spectra)
        alone = torch.cat([encoder(*(part[k : k + 1] for part in spectra)) for k in range(4)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_an_empty_row_is_finite_and_harmless(encoder, spectra):
    flux, ivar, mask = (part.clone() for part in spectra)
    mask[2] = True
    with torch.inference_mode():
        embedding = encoder(flux, ivar, mask)
        others = encoder(*spectra)
    assert torch.isfinite(embedding).all()
    torch.testing.assert_close(embedding[[0, 1, 3]], others[[0, 1, 3]], rtol=0, atol=1e-5)


def test_brightness_beyond_the_range_is_not_told_apart(spectra):
    flux, ivar, mask = spectra
    torch.manual_seed(1)
    limited = SmallSpectrumEncoder(width=16, dim=16, level_range=[-1.0, 1.5]).eval()
    torch.manual_seed(1)
    free = SmallSpectrumEncoder(width=16, dim=16).eval()

    def embedded(encoder, factor):
        with torch.inference_mode():
            return encoder(flux * factor, ivar / factor**2, mask)

    torch.testing.assert_close(embedded(limited, 1.0), embedded(free, 1.0), rtol=0, atol=0)
    for bright, brighter in ((1e3, 1e6), (1e-3, 3e-4)):
        first, second = embedded(limited, bright), embedded(limited, brighter)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
        assert not torch.allclose(embedded(free, bright), embedded(free, brighter), atol=1e-3)


def test_attention_block_is_that_of_torch():
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    torch.manual_seed(6)
    plain = torch.nn.TransformerEncoderLayer(24, 3, 48, **options)
    block = AttentionBlock(24, 3, 48, **options)
    block.load_state_dict(plain.state_dict())
    tokens, empty = torch.randn(5, 19, 24), torch.rand(5, 19) < 0.3
    empty[0, 1:], empty[:, 0] = True, False
    found, expected = block(tokens, empty), plain(tokens, src_key_padding_mask=empty)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    gradients = [
        torch.autograd.grad(output.square().sum(), list(module.parameters()))
        for output, module in ((found, block), (expected, plain))
    ]
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_further_blocks_start_as_the_identity(spectra):
    encoders = []
    for n_blocks in (1, 3):
        torch.manual_seed(1)
        encoders.append(SmallSpectrumEncoder(width=16, dim=16, n_blocks=n_blocks).eval())
    one, three = encoders
    three.load_state_dict(one.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(three(*spectra), one(*spectra), rtol=0, atol=1e-6)


def test_tokens_are_pooled_to_as_many_values_as_asked_for(spectra):
    encoder = SmallSpectrumEncoder(width=16, dim=16, pooled=80).eval()
    with torch.inference_mode():
        assert encoder.summary(*spectra).shape == (4, 80 + 42)
        assert encoder(*spectra).shape == (4, 16)
    assert encoder.head[0].normalized_shape == (80,)


def test_channels_are_the_documented_formulas():
    flux = torch.tensor([[2.0, 4.0, 100.0]])
    ivar = torch.tensor([[1.0, 3.0, 5.0]])
    mask = torch.tensor([[False, False, True]])
    channels, level = spectrum_channels(flux, ivar, mask)
    mean = (2.0 + 3 * 4.0) / 4
    np.testing.assert_allclose(channels[0, 0], [np.arcsinh(2 / mean), np.arcsinh(4 / mean), 0])
    signal = np.array([2.0, 4.0 * np.sqrt(3)])
    np.testing.assert_allclose(channels[0, 1], [*np.arcsinh(signal / 2) / 2, 0], rtol=1e-6)
    np.testing.assert_array_equal(channels[0, 2], [1, 1, 0])
    np.testing.assert_allclose(level[0], np.log10([mean, signal.mean()]), rtol=1e-5)


def test_images_ignore_what_masked_pixels_hold():
    torch.manual_seed(3)
    encoder = SmallImageEncoder(width=8, dim=16).eval()
    pixels = torch.randn(3, 3, 64, 64)
    mask = torch.zeros(3, 3, 64, 64, dtype=torch.bool)
    mask[0, 2] = True
    mask[1, :, :5] = True
    with torch.inference_mode():
        expected = encoder(pixels, mask)
        changed = encoder(torch.where(mask, 50.0, pixels), mask)
        unmasked = encoder(pixels, torch.zeros_like(mask))
    torch.testing.assert_close(changed, expected, rtol=0, atol=0)
    assert not torch.allclose(expected[0], unmasked[0])
    torch.testing.assert_close(expected[2], unmasked[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("step", [(1, 2), (2, 2), (1, 1)])
@pytest.mark.parametrize("n_in", [4, 8, 12, 16, 24])
def test_pointwise_convolution_is_one_with_strides(n_in, step):
    torch.manual_seed(0)
    module = PointwiseConvolution(n_in, 20, step=step).to(memory_format=torch.channels_last)
    pixels = torch.randn(13, n_in, 6, 90).contiguous(memory_format=torch.channels_last)
    for _ in range(3):  # what overwrites foreign memory does not always crash at once
        module.zero_grad()
        found = module(pixels)
        found.square().sum().backward()
    weight = module.weight.detach().double().contiguous().requires_grad_()
    expected = torch.nn.functional.conv2d(pixels.double().contiguous(), weight, stride=step)
    expected.square().sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-2)


def test_gradients_keep_the_order_of_channels_in_memory():
    torch.manual_seed(0)
    pixels = torch.randn(5, 16, 1, 64).contiguous(memory_format=torch.channels_last)
    pixels.requires_grad_()
    module = PointwiseConvolution(16, 20, step=(1, 2)).to(memory_format=torch.channels_last)
    gradients = []
    pixels.register_hook(gradients.append)
    module(pixels).square().sum().backward()
    assert gradients[0].stride()[1] == 1
    assert gradients[0].stride()[3] == 16


def test_attention_keeps_full_precision_under_autocast_of_the_cpu_alone(encoder, spectra):
    seen = []

    def look(module, inputs):
        states = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
        seen.append((inputs[0].dtype, *states))

    handle = encoder.transformer.register_forward_pre_hook(look)
    with torch.no_grad():
        encoder(*spectra)
        with torch.autocast("cpu", torch.bfloat16):
            encoder(*spectra)
    handle.remove()
    assert seen == [(torch.float32, False, False)] * 2


def test_no_encoder_has_a_strided_pointwise_convolution():
    for encoder in (SmallSpectrumEncoder(width=16), SmallImageEncoder(width=8)):
        for module in encoder.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1):
                assert module.stride == (1, 1)


def test_side_path_keeps_full_precision_under_autocast():
    torch.manual_seed(0)
    path = SidePath(6, 8, 4)
    torch.nn.init.normal_(path[2].weight)
    features = torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = path(features)
    torch.testing.assert_close(found, path(features), rtol=0, atol=0)

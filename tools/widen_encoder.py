"""Give trained weights a wider pooling of spectra and finer redshift bins.

The encoder computes what it did: every pooled value is there twice at first, and the logits of
new bins lie between those of the old ones (Chen, Goodfellow & Shlens 2016, arXiv:1511.05641). What
is added at random makes the copies differ once training goes on. The bundled model was trained on
from the weights of revision b3b1e75, widened so.

    python tools/widen_encoder.py astroclip-small.safetensors wide.safetensors
"""

import argparse

import torch
from safetensors.torch import load_file, save_file

from astroclip.training.run import REDSHIFT_HEAD

ENCODER, HEAD = "spectrum_encoder.", "spectrum_redshift."
JITTER = 0.02  # of the mean size of a copied value
SPLIT = 0.1  # of the scatter of weights, by which those of two copies differ


def jittered(values):
    """Return values with a small random part added."""
    return values + JITTER * values.abs().mean() * torch.randn_like(values)


def widen_pooling(state):
    """Pool to twice as many values, in place."""
    for kind in ("weight", "bias"):
        logits, values = state[f"{ENCODER}gate.{kind}"].chunk(2)
        parts = [logits, jittered(logits), values, jittered(values)]
        state[f"{ENCODER}gate.{kind}"] = torch.cat(parts)
        for name in ("windows.2", "head.0"):
            old = state[f"{ENCODER}{name}.{kind}"]
            state[f"{ENCODER}{name}.{kind}"] = torch.cat([old, old])
    weight = state[f"{ENCODER}head.1.weight"]
    split = SPLIT * weight.std() * torch.randn_like(weight)
    state[f"{ENCODER}head.1.weight"] = torch.cat([weight + split, -split], dim=1)


def refine_bins(state, n_bins):
    """Interpolate the spectra's redshift head at the centres of so many bins, in place."""
    n_old = len(state[f"{HEAD}bias"])
    position = ((torch.arange(n_bins) + 0.5) * n_old / n_bins - 0.5).clamp(0, n_old - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=n_old - 1)
    for kind in ("weight", "bias"):
        values = state[f"{HEAD}{kind}"]
        share = (position - low).reshape(-1, *[1] * (values.ndim - 1))
        state[f"{HEAD}{kind}"] = (1 - share) * values[low] + share * values[high]


def main():
    """Read, widen and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="of a bundled model (.safetensors)")
    parser.add_argument("output", help="to start `astroclip train` from")
    parser.add_argument("--bins", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    state = {}
    for name, value in load_file(arguments.weights).items():
        name = REDSHIFT_HEAD.sub(r"\1_redshift", name)
        state[name] = value.float() if value.is_floating_point() else value
    widen_pooling(state)
    refine_bins(state, arguments.bins)
    save_file({name: value.contiguous() for name, value in state.items()}, arguments.output)


if __name__ == "__main__":
    main()

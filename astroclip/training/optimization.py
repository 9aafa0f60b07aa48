"""What every objective shares: the optimizer's schedule and seeded randomness."""

import math

import torch

__all__ = ["adamw_with_cosine", "step_generator"]

RANK_STEP = 7_368_787  # a prime beyond any epoch's number of steps


def adamw_with_cosine(parameters, *, learning_rate, weight_decay, n_warmup, n_steps):
    """Return AdamW with a linear warm-up and a cosine decay to zero, as Lightning takes it.

    Parameters
    ----------
    parameters : sequence of `torch.nn.Parameter`
        Vectors and scalars get no weight decay.
    learning_rate, weight_decay : float
    n_warmup, n_steps : int

    Returns
    -------
    dict
    """
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=learning_rate,
        weight_decay=weight_decay,
    )

    def factor(step):
        warm = min(1.0, (step + 1) / n_warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * min(step / max(n_steps, 1), 1.0)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def step_generator(module, *numbers):
    """Return a generator fixed by the recipe's seed and numbers, on the module's device."""
    generator = torch.Generator(device=module.device)
    seed = 0
    for number in (module.recipe.seed, *numbers):
        seed = seed * 1_000_003 + number
    seed += RANK_STEP * module.global_rank  # every process draws its own noise
    return generator.manual_seed(seed % 2**63)

"""Threads that share out matrix products, as many as numpy's own may use."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

__all__ = ["n_threads", "workers"]

LEAST_PRODUCTS = 20_000_000  # products of vectors below which threads do not pay


@cache
def _blas():
    """Return the controller of the threads of numpy's BLAS library."""
    from threadpoolctl import ThreadpoolController  # comes with scikit-learn

    return ThreadpoolController().select(user_api="blas")


def n_threads():
    """Return how many threads matrix products may use."""
    limits = [library["num_threads"] for library in _blas().info()]
    return max(1, min([*limits, os.cpu_count() or 1]))


@contextmanager
def workers(n_products):
    """Give a ``map`` that shares its calls out over threads, each of them with one of BLAS.

    Parameters
    ----------
    n_products : int
        How many products of vectors there are to make: a few are made without threads.

    Yields
    ------
    callable
    """
    count = n_threads() if n_products > LEAST_PRODUCTS else 1
    if count == 1:
        yield map
        return
    with _blas().limit(limits=1), ThreadPoolExecutor(count) as pool:
        yield pool.map

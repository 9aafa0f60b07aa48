"""Names of a package that are imported when first used (PEP 562)."""

import importlib

__all__ = ["lazy_names"]


def lazy_names(package, module_of):
    """Return the ``__getattr__`` and ``__dir__`` of a package whose names are imported on use.

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    module_of : dict of str to str
        Module below the package, by public name.
    """

    def get(name):
        if name in module_of:
            return getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg)

    def names():
        return sorted(module_of)

    return get, names

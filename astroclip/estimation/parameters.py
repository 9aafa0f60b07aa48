"""Settings of an estimator read and changed by name, as scikit-learn's tools expect it."""

import inspect

__all__ = ["Parameters"]


class Parameters:
    """Base class: the arguments of ``__init__`` are the parameters, kept under their names.

    `sklearn.base.clone` and tools that change settings work on subclasses, without
    scikit-learn being imported for them.
    """

    def get_params(self, deep=True):
        """Return the settings by name.

        Parameters
        ----------
        deep : bool
            Makes no difference here; scikit-learn passes it.

        Returns
        -------
        dict
        """
        names = [name for name in inspect.signature(type(self)).parameters if name != "self"]
        return {name: getattr(self, name) for name in names}

    def set_params(self, **values):
        """Change settings; what was fitted stays until it is fitted again.

        Returns
        -------
        object
            Itself.

        Raises
        ------
        ValueError
            If there is no such setting, or its value cannot be.
        """
        known = self.get_params()
        for name in values:
            if name not in known:
                msg = (
                    f"{type(self).__name__} has no setting {name!r}; expected some of "
                    f"{', '.join(known)}."
                )
                raise ValueError(msg)
        self.__init__(**(known | values))
        return self

    def __repr__(self):
        defaults = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not defaults[name].default and value != defaults[name].default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

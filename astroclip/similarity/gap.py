"""The modality gap: spectra and images lie apart in one space; centring takes that away."""

import numpy as np

from astroclip.similarity.vectors import unit_rows

__all__ = ["ModalityCenters"]


class ModalityCenters:
    """The mean direction of each modality, to subtract from its embeddings.

    Parameters
    ----------
    centers : dict of str to (D,) array
        By modality.

    Notes
    -----
    Contrastive training leaves the modalities in narrow cones around different directions
    (Liang et al. 2022, NeurIPS 35, 17612). Subtracting each one's mean and scaling to unit
    length again lets a query be compared with both modalities on one footing.
    """

    def __init__(self, centers):
        self.centers = {name: np.asarray(each, dtype=np.float64) for name, each in centers.items()}

    @classmethod
    def fit(cls, unit, modality):
        """Return the centers of unit vectors.

        Parameters
        ----------
        unit : (N, D) float32 `numpy.ndarray`
        modality : (N,) str `numpy.ndarray`

        Returns
        -------
        `ModalityCenters`
        """
        names = np.unique(modality)
        means = {str(name): unit[modality == name].mean(axis=0, dtype=float) for name in names}
        return cls(means)

    def centered(self, unit, modality):
        """Return centred unit vectors.

        Parameters
        ----------
        unit : (N, D) float32 `numpy.ndarray`
        modality : (N,) str `numpy.ndarray`

        Returns
        -------
        vectors : (N, D) float32 `numpy.ndarray`
        directed : (N,) bool `numpy.ndarray`
            False where nothing is left.

        Raises
        ------
        ValueError
            If the reference has no rows of a modality.
        """
        vectors = unit.copy()
        for name in np.unique(modality):
            if str(name) not in self.centers:
                msg = (
                    f"modality {str(name)!r} of the query was not in the reference when its "
                    f"centers were fitted; expected {' or '.join(map(repr, self.centers))}. Make "
                    f"the index with center_modalities=False, or from a table with both."
                )
                raise ValueError(msg)
            members = modality == name
            vectors[members] -= self.centers[str(name)].astype(np.float32)
        return unit_rows(vectors, copy=False)

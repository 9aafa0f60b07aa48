"""Tables to spectra: which column is what, by its name and unit, never by its place."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from astropy import units as u
from astropy.io.fits import Header
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from specutils import Spectrum

from astroclip.exceptions import PreparationError
from astroclip.preparation.identity import find_column, plain_id
from astroclip.preparation.media import declarations
from astroclip.preparation.unit_strings import is_flux_density, parse_unit

__all__ = [
    "Array",
    "ArrayTable",
    "Convention",
    "Given",
    "bad_pixels",
    "column_spectra",
    "declared_medium",
    "find_roles",
    "flux_unit",
    "role_of",
    "split_unit",
]

# Names of columns and extensions, lower case with underscores. A name that is in no set
# (model, sky, continuum, wdisp, or_mask, flux_nocalib ...) is nothing that a spectrum needs.
ROLES = {
    "wavelength": {
        "wave", "wavelength", "wavelengths", "lambda", "lam", "lamb", "wl", "wlen", "wvl",
        "wavel", "spectral_axis", "wave_obs", "lambda_obs", "wavelength_obs", "frequency",
        "freq", "energy", "wavenumber", "opt_wave", "spec_wave", "wave_vac", "wavelength_vac", "lambda_vac",
        "lam_vac", "vacuum_wavelength", "wave_vacuum", "wavelength_vacuum", "lambda_vacuum",
        "vacwave", "vac_wave", "wave_air", "wavelength_air", "lambda_air", "lam_air",
        "air_wavelength", "airwave", "air_wave", "loglam", "loglambda", "log_lam",
        "log_lambda", "log_wave", "logwave", "log_wavelength", "log10_wavelength",
        "log10lam", "log10_lambda", "lnlam", "ln_lambda", "lnwave", "ln_wave",
    },
    "flux": {
        "flux", "fluxes", "flux_density", "fluxdensity", "f_lambda", "flambda", "flux_lambda",
        "f_lam", "flam", "flux_lam", "f_nu", "fnu", "flux_nu", "spec_flux", "flux_obs",
        "observed_flux", "obs_flux", "data_flux", "opt_flam",
    },
    "ivar": {
        "ivar", "invvar", "inv_var", "inverse_variance", "inversevariance", "flux_ivar",
        "fluxivar", "ivar_flux", "flux_invvar", "opt_flam_ivar", "ivar_lambda",
    },
    "error": {
        "err", "errs", "error", "errors", "rms", "sigma", "sig", "std", "stdev", "stddev",
        "std_dev",
        "flux_err", "flux_error", "fluxerr", "fluxerror", "err_flux", "error_flux", "errflux",
        "e_flux", "eflux", "flux_sigma", "sigma_flux", "flux_std", "std_flux", "unc", "uncert",
        "uncertainty", "flux_unc", "flux_uncertainty", "uncertainty_flux", "noise",
        "flux_noise", "flux_density_error", "flux_density_err", "staterror", "stat_error",
        "dflux", "d_flux", "flux_stddev", "opt_flam_sig",
    },
    "variance": {"var", "variance", "flux_var", "fluxvar", "var_flux", "flux_variance", "stat"},
    "mask": {
        "mask", "and_mask", "andmask", "qual", "quality", "dq", "flux_mask", "pixel_mask",
        "pixmask", "bpm", "badpix", "bad_pixel", "bad_pixels", "bad", "pixel_flags", "flags",
        "flag", "lambda_mask", "opt_bpm",
    },
    "good": {"good", "gpm", "good_pixels", "goodpix", "opt_mask"},
}
UNCERTAINTIES = {
    "ivar": InverseVariance, "error": StdDevUncertainty, "variance": VarianceUncertainty,
}
# IVOA utypes, as ESO's phase 3 tables and VOTables carry them, and the roles they give.
UTYPES = {
    "data.spectralaxis.value": "wavelength",
    "data.fluxaxis.value": "flux",
    "data.fluxaxis.accuracy.staterror": "error",
    "data.fluxaxis.accuracy.qualitystatus": "mask",
}
AIR = re.compile(r"(^|_)air|airwave")
VACUUM = re.compile(r"(^|_)vac")
LOG10 = re.compile(r"^log")
LN = re.compile(r"^ln_?(lam|wave)")
LOG_UNIT = re.compile(r"\s*(?:log_?(?:10)?|dex)[\[(\s]\s*(.+?)[\])]?\s*$", re.IGNORECASE)
HELP = (
    "Say which they are: flux=, wavelength=, ivar= or error=, and mask= name them (on the command "
    "line --flux and so on), and wavelength='NAME [nm]' also gives a unit that is missing"
)


class Convention(NamedTuple):
    """What a survey's files mean without saying it."""

    name: str = ""
    unit: u.UnitBase | None = None
    is_relative: bool = False  # whether flux has no absolute calibration, so users may give one
    medium: str | None = None
    bad_bits: int | None = None  # bits of the mask that make a pixel bad; None: any
    mask_is_good: bool = False  # whether True in the mask is good


@dataclass(frozen=True)
class Given:
    """The names and the unit that a user gives; None where nothing is."""

    unit: u.UnitBase | None = None
    flux: str | None = None
    wavelength: str | None = None
    ivar: str | None = None
    error: str | None = None
    mask: str | None = None

    def names(self):
        """Return role: name of what the user named."""
        roles = ("flux", "wavelength", "ivar", "error", "mask")
        return {role: getattr(self, role) for role in roles if getattr(self, role) is not None}


class Array(NamedTuple):
    """One column of a table or one array of a file, with what is written about it."""

    values: object  # array, or a function without arguments that returns it
    unit: str | None = None
    utype: str = ""
    ucd: str = ""

    def read(self):
        """Return the values as a masked or plain array."""
        return self.values() if callable(self.values) else self.values


@dataclass
class ArrayTable:
    """Arrays by name, from a table or from a file's extensions.

    Attributes
    ----------
    label : str
        How messages name it.
    arrays : dict of str to `Array`
    header : `~astropy.io.fits.Header`
    n_rows : int
        Rows of a table; 0 for extensions.
    """

    label: str
    arrays: dict
    header: Header = field(default_factory=Header)
    n_rows: int = 0


# ---------------------------------------------------------------------- names
def role_of(name):
    """Return what a name stands for: a key of `ROLES`, or None."""
    key = re.sub(r"\W+", "_", split_unit(name)[0].strip().lower()).strip("_")
    return next((role for role, names in ROLES.items() if key in names), None)


def split_unit(name):
    """Return a column's name without a unit in brackets, and that unit's string or None."""
    match = re.fullmatch(r"\s*(.*?)\s*[\[(](.+)[\])]\s*", name)
    return (match[1], match[2]) if match and match[1] else (name, None)


def find_roles(table, given):
    """Return role: name for a table's arrays; raise if that is not clear.

    What the user names comes first, then utypes, then names. Only the roles that are there
    are in the result.
    """
    names = {role: _named(table, name, role) for role, name in given.names().items()}
    roles = dict(names)
    by_utype = {
        role: name
        for name, array in table.arrays.items()
        for ending, role in UTYPES.items()
        if array.utype.lower().endswith(ending) and not array.utype.lower().startswith("eso:")
    }
    candidates = {}
    for name in table.arrays:
        candidates.setdefault(role_of(name), []).append(name)
    for role in ROLES:
        if role in roles or (role in UNCERTAINTIES and not names.keys().isdisjoint(UNCERTAINTIES)):
            continue
        if role == "good" and "mask" in roles:
            continue
        if role in by_utype:
            roles[role] = by_utype[role]
            continue
        found = candidates.get(role, [])
        if role == "wavelength" and len(found) > 1:
            found = _best_wavelengths(table, found)
        if role == "flux" and len(found) > 1:  # FLUX in adu beside FLUX_LAMBDA
            calibrated = [n for n in found if is_flux_density(parse_unit(table.arrays[n].unit))]
            found = calibrated if len(calibrated) == 1 else found
        if len(found) > 1:
            raise PreparationError(
                f"{table.label} has {len(found)} columns that could be the {role}: "
                f"{', '.join(found)}. {HELP}."
            )
        if found:
            roles[role] = found[0]
    return roles


def _best_wavelengths(table, found):
    """Return of several wavelength columns those that are not the same ones in air or log."""
    for pattern in (AIR, LOG10, LN):
        others = [name for name in found if not pattern.search(name.lower())]
        found = others or found
    return found


def _named(table, name, role):
    """Return the array a user's name stands for; raise an error with the names there are."""
    wanted = (name, split_unit(name)[0])
    for matches in (
        [key for key in table.arrays if key in wanted],
        [key for key in table.arrays if key.lower() in {w.lower() for w in wanted}],
    ):
        if len(matches) == 1:
            return matches[0]
    raise PreparationError(
        f"{role}={name!r} names nothing in {table.label}; it has "
        f"{', '.join(table.arrays) or 'none'}. Give one of these names."
    )


# ---------------------------------------------------------------------- units
def flux_unit(text, given, convention, what):
    """Return the unit of a flux: its own, the survey's, the user's, or an error that asks."""
    found = parse_unit(text)
    if is_flux_density(found):
        return found
    is_none = found in (None, u.dimensionless_unscaled)
    if convention.unit is not None and is_none and not (convention.is_relative and given):
        return convention.unit
    if given is not None:
        return given
    if not is_none:
        return found  # counts and the like: preparation says what it needs
    understood = not str(text or "").strip() or found is not None
    msg = f"{what} has " + (
        "no unit" if understood else f"the unit {str(text)!r}, which is not understood"
    )
    raise PreparationError(
        f"{msg}; expected a flux density. Pass unit=, such as unit='1e-17 erg / (s cm2 AA)' or "
        f"'Jy' (on the command line --unit)."
    )


def _wavelengths(name, array, values, given_name, label):
    """Return wavelengths (frequencies, energies) as a Quantity."""
    text = split_unit(given_name or name)[1] or array.unit or split_unit(name)[1]
    key = split_unit(name)[0].lower()
    logarithm = LOG_UNIT.match(text or "")
    if LN.search(key):
        return np.exp(values) * u.AA
    if LOG10.search(key) or logarithm:
        unit = parse_unit(logarithm[1]) if logarithm else u.AA
        return 10.0**values * (unit or u.AA)
    unit = parse_unit(text)
    if unit is not None and unit.is_equivalent(u.AA, u.spectral()):
        return values * unit
    finite = values[np.isfinite(values) & (values > 0)]
    low, high = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
    if unit is None and not text and low > 1200 and high < 1e5:
        return values * u.AA  # nm would be infrared, and no other unit gives such numbers
    found = f"the unit {text!r}" if text else "no unit"
    raise PreparationError(
        f"{label} has {name} from {low:.6g} to {high:.6g} with {found}; expected wavelengths in "
        f"Angstrom, nm or um. Give the unit with the name: wavelength='{name} [Angstrom]' or "
        f"'[nm]' (on the command line --wavelength)."
    )


# ---------------------------------------------------------------------- spectra
def column_spectra(table, given, convention):
    """Return the spectra of a table's columns, or of extensions that go by the same names.

    One per row where rows hold arrays, one per column of a 2-D flux beside 1-D wavelengths,
    else one.

    Parameters
    ----------
    table : `ArrayTable`
    given : `Given`
    convention : `Convention`

    Returns
    -------
    list of `~specutils.Spectrum`
    """
    roles = find_roles(table, given)
    arrays = {role: table.arrays[name].read() for role, name in roles.items()}
    if not any(_is_ragged(values) for values in arrays.values()):
        arrays = {
            role: _filled(values, role, f"{table.label}, column {roles[role]},")
            for role, values in arrays.items()
        }
    unit = flux_unit(
        split_unit(given.flux or "")[1] or table.arrays[roles["flux"]].unit
        or split_unit(roles["flux"])[1],
        given.unit, convention, f"{table.label}, column {roles['flux']},",
    )
    spectra = [
        column_spectrum(row, roles, table, unit, given, convention)
        for row in _rows(arrays, table.label)
    ]
    if len(spectra) > 1 and len(spectra) == table.n_rows:
        _identify_rows(spectra, table)
    return spectra


def _filled(values, role, name):
    """Return a role's values, plain and in the machine's byte order; missing ones are bad."""
    values = np.ma.asarray(values)
    if role in ("mask", "good") and values.dtype.kind in "SU":
        values = np.isin(np.char.lower(values.astype(str)), ["true", "t", "1", "yes"])
    if values.dtype.kind not in "biuf":
        raise PreparationError(f"{name} holds no numbers but {values.dtype.name}. {HELP}.")
    if role not in ("mask", "good"):
        values = values.astype(float)
    values = np.ma.asarray(values.astype(values.dtype.newbyteorder("="), copy=False))
    return values.filled({"mask": 1, "good": 0}.get(role, np.nan))


def _is_ragged(values):
    """Return whether rows hold arrays of their own lengths."""
    return np.ma.asarray(values).dtype.hasobject


def _rows(arrays, label):
    """Return one dict of 1-D arrays per spectrum; all have the length of its pixels."""
    shapes = {role: np.shape(array) for role, array in arrays.items()}
    flux, axis = arrays["flux"], arrays["wavelength"]
    if any(_is_ragged(values) for values in arrays.values()):
        shared = {role: values for role, values in arrays.items() if len(values) != len(flux)}
        return [
            {role: _filled(values if role in shared else values[row], role, f"{label}, {role},")
             for role, values in arrays.items()}
            for row in range(len(flux))
        ]
    if flux.ndim == 1 and axis.ndim == 1:
        return [arrays]
    if flux.ndim == 2 and axis.ndim == 1 and flux.shape[0] == len(axis) != flux.shape[1]:
        # one pixel per row, one spectrum per column: as specutils writes 2-D flux
        return [
            {role: values if values.ndim == 1 else values[:, column]
             for role, values in arrays.items()}
            for column in range(flux.shape[1])
        ]
    if flux.ndim == 2 and axis.shape in (flux.shape, flux.shape[1:]):
        return [
            {role: values if values.ndim == 1 else values[row] for role, values in arrays.items()}
            for row in range(len(flux))
        ]
    raise PreparationError(
        f"{label} has flux of shape {shapes['flux']} and wavelengths of shape "
        f"{shapes['wavelength']}; expected one value of each per pixel, one array of each per "
        f"row, or rows of flux on one wavelength array. {HELP}."
    )


def column_spectrum(row, roles, table, unit, given, convention):
    """Return the Spectrum of arrays of pixels by role.

    Parameters
    ----------
    row : dict of str to `numpy.ndarray`
        (P,) by role; those other than ``wavelength`` may be (N, P), of N objects.
    roles : dict of str to str
        Names of the arrays.
    table : `ArrayTable`
    unit : `~astropy.units.Unit`
        Of flux.
    given : `Given`
    convention : `Convention`
    """
    axis_name = roles["wavelength"]
    axis = table.arrays[axis_name]
    medium = _medium_of_column(axis_name, axis) or declared_medium(table.header, convention)
    wavelength = _wavelengths(axis_name, axis, row["wavelength"], given.wavelength, table.label)
    n_pixels = len(wavelength)
    wrong = {
        roles[role]: values.shape
        for role, values in row.items()
        if values.shape[-1:] != (n_pixels,)
    }
    if wrong:
        raise PreparationError(
            f"{table.label} has {n_pixels} wavelengths but "
            f"{', '.join(f'{name} of shape {shape}' for name, shape in wrong.items())}; expected "
            f"one value per pixel. {HELP}."
        )
    # pixels without a wavelength are padding at the ends of rows of one length
    real = np.isfinite(wavelength.value) & (wavelength.value > 0)
    order = np.flatnonzero(real)
    steps = np.diff(wavelength.value[order])
    if not ((steps > 0).all() or (steps < 0).all()):
        order = order[np.argsort(wavelength.value[order], kind="stable")]
    wavelength = wavelength[order]
    repeated = np.flatnonzero(np.diff(wavelength.value) == 0)
    if len(wavelength) < 2:
        raise PreparationError(
            f"{table.label} has {len(wavelength)} pixels with a wavelength in {axis_name}; "
            f"expected at least 2. {HELP}."
        )
    if repeated.size:
        raise PreparationError(
            f"{table.label} has {wavelength[repeated[0]]:.6g} twice in {axis_name}; expected each "
            f"wavelength once. Merge overlapping orders or segments first."
        )
    uncertainty = _uncertainty(row, roles, table, unit, order)
    mask = _mask(row, convention, order)
    if uncertainty is not None:  # an uncertainty that is none marks a bad pixel, too
        useless = ~(np.isfinite(uncertainty.array) & (uncertainty.array > 0))
        mask = useless if mask is None else mask | useless
    meta = {"header": table.header}
    if medium is not None:
        meta["medium"] = medium
    return Spectrum(
        flux=row["flux"][..., order] * unit, spectral_axis=wavelength, uncertainty=uncertainty,
        mask=mask, meta=meta,
    )


def _uncertainty(row, roles, table, unit, order):
    """Return the uncertainty of a row, None if the table has none."""
    found = [role for role in UNCERTAINTIES if role in roles]
    if len(found) > 1:
        found = _agreeing(row, found) or found
    if not found:
        return None
    if len(found) > 1:
        raise PreparationError(
            f"{table.label} has {' and '.join(roles[role] for role in found)}, which disagree "
            f"about the noise; expected one. Name it with ivar= or error=."
        )
    (role,) = found
    kind, power = UNCERTAINTIES[role], {"ivar": -2, "error": 1, "variance": 2}[role]
    values = row[role][..., order]
    if np.isnan(values).all():
        return None  # ESO fills the column with NaN where errors are not known
    own = parse_unit(table.arrays[roles[role]].unit or split_unit(roles[role])[1])
    factor = 1.0
    if own not in (None, unit, u.dimensionless_unscaled):
        if own.is_equivalent(unit**power):
            factor = own.to(unit**power)
        elif not own.is_equivalent(unit):  # the flux's unit is a slip for its power: implied
            raise PreparationError(
                f"{table.label} has {roles[role]} in {own} beside flux in {unit}: not of the same "
                f"calibration. {HELP}."
            )
    return kind(values * factor, unit=unit**power)


def _agreeing(row, found):
    """Return the first of several uncertainties if they say the same, else None."""
    power = {"ivar": -0.5, "error": 1.0, "variance": 0.5}
    with np.errstate(all="ignore"):
        errors = [np.asarray(row[role], float) ** power[role] for role in found]
        ratios = [error / errors[0] for error in errors[1:]]
    usable = [ratio[np.isfinite(ratio) & (ratio > 0)] for ratio in ratios]
    agree = all(ratio.size and abs(np.median(ratio) - 1) < 0.02 for ratio in usable)
    return found[:1] if agree else None


def _mask(row, convention, order):
    """Return True at bad pixels, None if the table has no mask."""
    if "good" in row and "mask" not in row:
        return ~(np.asarray(row["good"])[..., order].astype(float) > 0)
    if "mask" not in row:
        return None
    if convention.mask_is_good:
        return ~np.asarray(row["mask"])[..., order].astype(bool)
    return bad_pixels(np.asarray(row["mask"])[..., order], convention.bad_bits)


def bad_pixels(values, bad_bits=None):
    """Return True where a mask's bits say that a pixel is bad; by default any bit does."""
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, 0)
    if values.dtype == bool or bad_bits is None:
        return values.astype(bool)
    return (values.astype(np.int64) & bad_bits) != 0


def _identify_rows(spectra, table):
    """Put ids and positions of a table's rows into the meta of its spectra."""
    if (key := find_column(table.arrays, "id")) is not None:
        ids = [plain_id(value) for value in table.arrays[key].read()]
        if len(set(ids)) == len(ids) and None not in ids:
            for spectrum, value in zip(spectra, ids, strict=True):
                spectrum.meta["id"] = value
    for axis in ("ra", "dec"):
        if (key := find_column(table.arrays, axis)) is not None:
            values = np.asarray(table.arrays[key].read())
            if values.dtype.kind in "fiu" and values.ndim == 1:
                for spectrum, value in zip(spectra, values, strict=True):
                    spectrum.meta[axis] = float(value)


# ---------------------------------------------------------------------- air and vacuum
def declared_medium(header, convention=None):
    """Return ``"air"`` or ``"vacuum"``: a header's declaration, else what the survey's files are.

    None if neither is known, or the header says both.
    """
    media = set(declarations(header).values())
    if media:
        return media.pop() if len(media) == 1 else None
    return convention.medium if convention else None


def _medium_of_column(name, array):
    """Return what a wavelength column's name or UCD says of its medium.

    ESO's phase 3 standard: ``em.wl;obs.atmos`` is air, ``em.wl`` vacuum.
    """
    if AIR.search(name.lower()):
        return "air"
    if VACUUM.search(name.lower()):
        return "vacuum"
    ucd = array.ucd.lower()
    if ucd.startswith("em.wl"):
        return "air" if "obs.atmos" in ucd else "vacuum"
    return None

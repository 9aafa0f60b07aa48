"""Which reference rows may be found: masks, conditions as text, ranges, and places on the sky."""

import ast
import io
import re
import tokenize

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from astroclip._columns import column_arrays, column_degrees
from astroclip._validation import check_unit

__all__ = ["allowed_rows"]

MAX_CHARACTERS = 10_000
LOGICAL = {"&": "and", "|": "or", "~": "not"}
FUNCTIONS = {"abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "log10": np.log10}
TESTS = {"isfinite": np.isfinite, "isnan": np.isnan}
ARITHMETIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.Mod: np.mod,
}
COMPARISONS = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
LANGUAGE = (
    "comparisons of columns and numbers joined by &, | and ~ (or and, or, not), arithmetic, "
    "abs, sqrt, exp, log, log10, isfinite, isnan and has_bit(column, bit)"
)


def allowed_rows(table, *, where=None, near=None):
    """Return which rows fulfill all conditions.

    Parameters
    ----------
    table : `~astropy.table.QTable`, or what is read like one
    where, near
        As in `~astroclip.SimilarityIndex.query`.

    Returns
    -------
    (M,) bool `numpy.ndarray` or None
        None if there are no conditions.

    Raises
    ------
    TypeError, ValueError, UnitsError
        If a condition cannot be used.
    """
    masks = []
    if isinstance(where, str):
        masks.append(_Condition(table, where).rows())
    elif isinstance(where, dict):
        masks += [_in_range(table, name, limits) for name, limits in where.items()]
    elif where is not None:
        masks.append(_given_mask(where, len(table)))
    if near is not None:
        masks.append(_near(table, near))
    return np.logical_and.reduce(masks) if masks else None


def _column(table, name, where):
    """Return a column's values, where they are not masked, and its unit."""
    if name not in table.colnames:
        listed = ", ".join(each for each in table.colnames if each != "embedding")
        msg = (
            f"{where} names {name!r}, which is no column of the reference; expected some of "
            f"{listed}."
        )
        raise ValueError(msg)
    values, mask, unit = column_arrays(table[name])
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        msg = (
            f"where names {name!r}, a column of {values.dtype} with shape {values.shape}; expected "
            f"numbers or text, one a row."
        )
        raise ValueError(msg)
    return values, ~mask, unit


def _given_mask(where, n_rows):
    """Return a mask whose masked values are False."""
    mask = np.asarray(getattr(where, "mask", False))
    where = np.asarray(np.ma.getdata(getattr(where, "unmasked", where)))
    if where.dtype != bool or where.shape != (n_rows,):
        msg = (
            f"where has dtype {where.dtype} and shape {where.shape}; expected a bool for "
            f"each of the reference's {n_rows} rows. Make it from a column, such as "
            f"reference['coverage'] > 0.5, or write the condition as text, 'coverage > 0.5'."
        )
        raise ValueError(msg)
    return where & ~mask


def _in_range(table, name, limits):
    """Return rows whose value lies in a closed range."""
    values, inside, unit = _column(table, name, "where")
    if not isinstance(limits, tuple | list) or len(limits) != 2:
        msg = (
            f"where[{name!r}] is {limits!r}; expected (lowest, highest), either of which may be "
            f"None."
        )
        raise ValueError(msg)
    for limit, compare in zip(limits, (np.greater_equal, np.less_equal), strict=True):
        if limit is not None:
            if isinstance(limit, u.Quantity):
                check_unit(limit.unit, unit or u.one, f"where[{name!r}]")
                limit = limit.to_value(unit or u.one)
            inside = inside & compare(values, limit)
    return inside


# ---------------------------------------------------------------------- conditions as text
class _Condition:
    """A condition on a table's columns, written as text.

    Python parses it; of the nodes of its syntax tree only those that are named here are
    evaluated, so that nothing in the text is executed. ``&``, ``|`` and ``~`` are read as
    ``and``, ``or`` and ``not``. A column whose name is no Python name stands in backticks.
    Each value comes with where it is known, which masked values and NaN are not: three-valued
    logic (Kleene 1938, J. Symb. Log. 3, 150) leaves them out of a condition and its opposite.
    """

    def __init__(self, table, text):
        self.table, self.text = table, text

    def fail(self, reason, *, text=None):
        msg = f"where is {text or self.text!r}, {reason}; expected {LANGUAGE}."
        raise ValueError(msg)

    def rows(self):
        """Return the rows of which the condition is known to hold."""
        if self.text in self.table.colnames:  # alone, a name needs no backticks
            values, known, _ = _column(self.table, self.text, "where")
            if values.dtype == bool:
                return values & known
        if len(self.text) > MAX_CHARACTERS:
            reason = f"which has {len(self.text)} characters"
            self.fail(reason, text=self.text[:50] + "...")
        self.quoted = []

        def quote(match):
            self.quoted.append(match[1])
            return f"_quoted_{len(self.quoted) - 1}"

        try:
            plain = re.sub("`([^`]+)`", quote, self.text)
            tokens = tokenize.generate_tokens(io.StringIO(f"({plain}\n)").readline)
            words = [
                (tokenize.NAME, LOGICAL[token.string]) if token.string in LOGICAL else token[:2]
                for token in tokens
            ]
            tree = ast.parse(tokenize.untokenize(words).strip(), mode="eval").body
        except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
            self.fail(f"which cannot be read ({error})")
        try:
            with np.errstate(all="ignore"):
                value, known = self.condition(tree)
        except RecursionError:
            self.fail("which is nested too deeply", text=self.text[:50] + "...")
        return value & known

    def condition(self, node):
        """Return a condition's truth and where it is known."""
        if isinstance(node, ast.BoolOp):
            decisive = isinstance(node.op, ast.Or)  # "or" is true if one part is
            value, known = self.condition(node.values[0])
            for part in node.values[1:]:
                other, other_known = self.condition(part)
                decided = (known & (value == decisive)) | (other_known & (other == decisive))
                known = decided | (known & other_known)
                value = (value | other) if decisive else (value & other)
                value = np.where(decided, decisive, value)
            return value, known
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            value, known = self.condition(node.operand)
            return ~value, known
        if isinstance(node, ast.Compare):
            return self.comparison(node)
        value, known = self.value(node)
        if np.asarray(value).dtype != bool or np.ndim(value) == 0:
            self.fail(f"in which {ast.unparse(node)!r} is no condition")
        return value, known

    def comparison(self, node):
        """Return where a chain of comparisons holds."""
        value, known = True, True
        left, left_known = self.value(node.left)
        for operator, other in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.In | ast.NotIn):
                if not isinstance(other, ast.List | ast.Tuple | ast.Set):
                    self.fail(f"in which {ast.unparse(other)!r} is no list")
                right = [self.value(each)[0] for each in other.elts]
                if any(np.ndim(each) for each in right):
                    self.fail(f"in which {ast.unparse(other)!r} is no list of numbers or text")
                right_known = True
            elif type(operator) in COMPARISONS:
                right, right_known = self.value(other)
            else:
                self.fail(f"in which {ast.unparse(node)!r} is not understood")
            choices = right if isinstance(right, list) else [right]
            if any(_is_text(left) != _is_text(each) for each in choices):
                self.fail(f"in which {ast.unparse(node)!r} compares text with numbers")
            if isinstance(right, list):
                holds = np.isin(left, right, invert=isinstance(operator, ast.NotIn))
            else:
                holds = COMPARISONS[type(operator)](left, right)
            value, known = value & holds, known & left_known & right_known
            left, left_known = right, right_known
        if np.ndim(value) == 0:
            self.fail(f"in which {ast.unparse(node)!r} names no column")
        return value, np.broadcast_to(known, np.shape(value))

    def value(self, node):
        """Return the values of an expression, and where they are known."""
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            if isinstance(node.value, bool | str):
                return node.value, True
            try:
                return float(node.value), True
            except OverflowError:
                self.fail(f"in which {str(node.value)[:20]}... is too large a number")
        if isinstance(node, ast.Name):
            quoted = re.fullmatch(r"_quoted_(\d+)", node.id)
            known_quote = quoted and int(quoted[1]) < len(self.quoted)
            name = self.quoted[int(quoted[1])] if known_quote else node.id
            value, known, _ = _column(self.table, name, f"where is {self.text!r} and")
            return value, (known & ~np.isnan(value) if value.dtype.kind == "f" else known)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value, known = self.number(node.operand)
            return (-value if isinstance(node.op, ast.USub) else value), known
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            (left, left_known), (right, right_known) = map(self.number, (node.left, node.right))
            return ARITHMETIC[type(node.op)](left, right), left_known & right_known
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self.call(node.func.id, node)
        return self.fail(f"in which {ast.unparse(node)!r} is not understood")

    def number(self, node):
        """Return the values of an expression as float64, and where they are known."""
        value, known = self.value(node)
        if _is_text(value):
            self.fail(f"in which {ast.unparse(node)!r} is text")
        return np.asarray(value, dtype=float), known

    def call(self, name, node):
        """Return the values of a function, and where they are known."""
        arguments = [self.number(each) for each in node.args]
        if name in FUNCTIONS and len(arguments) == 1:
            return FUNCTIONS[name](arguments[0][0]), arguments[0][1]
        if name in TESTS and len(arguments) == 1:
            value, known = arguments[0]
            value = np.where(known, value, np.nan)  # a masked value is none
            return TESTS[name](value), np.ones(np.shape(value), dtype=bool)
        if name == "has_bit" and len(arguments) == 2:
            (value, known), (bit, _) = arguments
            return (value.astype(np.int64) & bit.astype(np.int64)) != 0, known
        return self.fail(f"in which {ast.unparse(node)!r} is no function known here")


def _is_text(value):
    return np.asarray(value).dtype.kind in "US"


# ---------------------------------------------------------------------- places on the sky
def _near(table, near):
    """Return rows in a cone or a box on the sky; False for rows without a position.

    ``(center, radius)`` is a cone, around any of several centers; ``(center, width, height)`` a
    box whose sides are great circles through the points half a side from its center.
    """
    pair = isinstance(near, tuple | list) and len(near) in (2, 3)
    if not pair or not isinstance(near[0], SkyCoord):
        msg = (
            f"near is {near!r}; expected (center, radius) or (center, width, height) with a "
            f"SkyCoord, such as (SkyCoord(150, 2, unit='deg'), 1 * u.deg)."
        )
        raise TypeError(msg)
    sizes = []
    for size, name in zip(near[1:], ("size", "height"), strict=False):
        check_unit(getattr(size, "unit", None), u.deg, "near", what=name)
        sizes.append(float(u.Quantity(size).to_value(u.rad)))
    if not {"ra", "dec"} <= set(table.colnames):
        msg = (
            "near is given and the reference has no columns 'ra' and 'dec'; expected positions. "
            "Add both, in degrees, before making the index."
        )
        raise ValueError(msg)
    ra, dec = (np.radians(column_degrees(table[name])) for name in ("ra", "dec"))
    centers = np.atleast_1d(near[0].icrs)
    inside = np.zeros(len(ra), dtype=bool)
    if len(sizes) == 1:
        for center in centers:
            close = np.flatnonzero(np.abs(dec - center.dec.rad) <= sizes[0] * (1 + 1e-12))
            across = np.sin((ra[close] - center.ra.rad) / 2) ** 2
            haversine = np.sin((dec[close] - center.dec.rad) / 2) ** 2
            haversine += np.cos(dec[close]) * np.cos(center.dec.rad) * across
            inside[close] |= 2 * np.arcsin(np.sqrt(np.clip(haversine, 0, 1))) <= sizes[0]
        return inside
    if len(centers) != 1:
        msg = f"near has {len(centers)} centers of a box; expected one."
        raise ValueError(msg)
    # longitude and latitude in the frame whose origin is the center
    center_ra, center_dec = centers[0].ra.rad, centers[0].dec.rad
    x = np.cos(dec) * np.cos(ra - center_ra)
    y = np.cos(dec) * np.sin(ra - center_ra)
    z = np.sin(dec)
    forward = np.cos(center_dec) * x + np.sin(center_dec) * z
    up = np.cos(center_dec) * z - np.sin(center_dec) * x
    inside = np.abs(np.arctan2(y, forward)) <= sizes[0] / 2
    return inside & (np.abs(np.arcsin(np.clip(up, -1, 1))) <= sizes[1] / 2)

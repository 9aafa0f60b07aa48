"""Conditions on columns written as text, such as ``"redshift > 0.1 & log_ssfr < -11"``."""

import ast
import io
import re
import tokenize

import numpy as np

__all__ = ["column_names", "evaluate_condition"]

LOGICAL = {"&": "and", "|": "or", "~": "not"}
FUNCTIONS = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
}
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
LONGEST = 10_000
WHAT = (
    "comparisons of columns and numbers joined by &, | and ~ (or and, or, not), arithmetic, "
    "abs, sqrt, exp, log, log10, isfinite, isnan and has_bit(column, bit)"
)


def evaluate_condition(text, read, names):
    """Return where a condition holds.

    Parameters
    ----------
    text : str
        Read by a parser that knows comparisons, arithmetic and a few functions; nothing is
        executed. ``&``, ``|`` and ``~`` join conditions, as ``and``, ``or`` and ``not`` do. A
        column whose name is no Python name stands in backticks.
    read : callable
        Returns a column's plain values and where they are known, by its name.
    names : sequence of str
        The columns there are.

    Returns
    -------
    bool `numpy.ndarray`
        False where a value that decides is masked or NaN.

    Raises
    ------
    ValueError
        If it is no condition, or names a column there is not.
    """
    tree, quoted = _parse(text)
    try:
        with np.errstate(all="ignore"):
            value, known = _Evaluation(text, read, names, quoted).boolean(tree)
    except RecursionError:
        _fail(text[:50] + "...", "which is nested too deeply")
    return value & known


def column_names(text):
    """Return the names of columns in a condition.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
    """
    tree, quoted = _parse(text)
    functions = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    nodes = [each for each in ast.walk(tree) if isinstance(each, ast.Name)]
    return sorted({quoted.get(each.id, each.id) for each in nodes if each not in functions})


def _fail(text, reason):
    msg = f"where is {text!r}, {reason}; expected {WHAT}."
    raise ValueError(msg)


def _parse(text):
    """Return the tree of a condition, and the names that its backticks quote."""
    if len(text) > LONGEST:
        _fail(text[:50] + "...", f"which has {len(text)} characters")
    quoted = {}

    def replace(match):
        name = f"_quoted_{len(quoted)}"
        quoted[name] = match[1]
        return name

    try:
        plain = re.sub("`([^`]+)`", replace, text)
        tokens = tokenize.generate_tokens(io.StringIO(f"({plain}\n)").readline)
        words = [
            (tokenize.NAME, LOGICAL[token.string]) if token.string in LOGICAL else token[:2]
            for token in tokens
        ]
        return ast.parse(tokenize.untokenize(words).strip(), mode="eval").body, quoted
    except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
        _fail(text, f"which cannot be read ({error})")


class _Evaluation:
    """Values of a tree's nodes, each with where it is known (masked and NaN are not)."""

    def __init__(self, text, read, names, quoted):
        self.text, self.read, self.names, self.quoted = text, read, names, quoted

    def fail(self, reason):
        _fail(self.text, reason)

    def boolean(self, node):
        """Return a condition's truth by Kleene's three-valued logic, and where it is known."""
        if isinstance(node, ast.BoolOp):
            parts = [self.boolean(each) for each in node.values]
            ends = isinstance(node.op, ast.Or)  # the value that decides alone
            value, known = parts[0]
            for other, other_known in parts[1:]:
                decided = (known & (value == ends)) | (other_known & (other == ends))
                known = decided | (known & other_known)
                value = (value | other) if ends else (value & other)
                value = np.where(decided, ends, value)
            return value, known
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            value, known = self.boolean(node.operand)
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
        left = self.value(node.left)
        for operator, other in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.In | ast.NotIn):
                holds, both = self.membership(left, operator, other)
            elif type(operator) in COMPARISONS:
                right = self.value(other)
                if _is_text(left[0]) != _is_text(right[0]):
                    self.fail(f"in which {ast.unparse(node)!r} compares text with numbers")
                holds = COMPARISONS[type(operator)](left[0], right[0])
                both, left = left[1] & right[1], right
            else:
                self.fail(f"in which {ast.unparse(node)!r} is not understood")
            value, known = value & holds, known & both
        if np.ndim(value) == 0:
            self.fail(f"in which {ast.unparse(node)!r} names no column")
        return value, np.broadcast_to(known, np.shape(value))

    def membership(self, left, operator, node):
        """Return where values are in a list."""
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            self.fail(f"in which {ast.unparse(node)!r} is no list")
        choices = [self.value(each)[0] for each in node.elts]
        holds = np.isin(left[0], choices)
        return (~holds if isinstance(operator, ast.NotIn) else holds), left[1]

    def value(self, node):
        """Return the values of an expression, and where they are known."""
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
            return (float(node.value) if number else node.value), True
        if isinstance(node, ast.Name):
            return self.column(self.quoted.get(node.id, node.id))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value, known = self.number(node.operand)
            return (-value if isinstance(node.op, ast.USub) else value), known
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            (left, known), (right, other) = self.number(node.left), self.number(node.right)
            return ARITHMETIC[type(node.op)](left, right), known & other
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self.call(node)
        return self.fail(f"in which {ast.unparse(node)!r} is not understood")

    def number(self, node):
        """Return values that can be reckoned with."""
        value, known = self.value(node)
        if _is_text(value):
            self.fail(f"in which {ast.unparse(node)!r} is text")
        return np.asarray(value, dtype=float), known

    def call(self, node):
        """Return the values of a function."""
        name, arguments = node.func.id, [self.number(each) for each in node.args]
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

    def column(self, name):
        """Return a column's values, and where they are known."""
        if name not in self.names:
            listed = ", ".join(each for each in self.names if each != "embedding")
            msg = (
                f"where is {self.text!r} and names {name!r}, which is no column of the "
                f"reference; expected some of {listed}."
            )
            raise ValueError(msg)
        value, known = self.read(name)
        if value.dtype.kind == "f":
            known = known & ~np.isnan(value)
        return value, known


def _is_text(value):
    return np.asarray(value).dtype.kind in "US"

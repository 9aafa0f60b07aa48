"""Conditions as text: what numpy and pandas say, what is unknown, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from astroclip.similarity.expressions import column_names, evaluate_condition

RNG = np.random.default_rng(0)
COLUMNS = {
    "z": RNG.random(60),
    "mass": RNG.normal(10, 1, 60),
    "flags": RNG.integers(0, 16, 60),
    "kind": RNG.choice(["spiral", "ring", "merger"], 60),
    "good": RNG.random(60) < 0.5,
    "r mag": RNG.normal(18, 2, 60),
}
FRAME = pd.DataFrame(COLUMNS)


def evaluate(text, columns=COLUMNS, masks=()):
    def read(name):
        known = np.ones(len(columns[name]), dtype=bool)
        return columns[name], known & ~np.asarray(dict(masks).get(name, False))

    return evaluate_condition(text, read, list(columns))


@pytest.mark.parametrize(
    "text",
    [
        "z > 0.1 & mass < 10",
        "z > 0.1 and mass < 10 or kind == 'ring'",
        "~(z > 0.5) | good",
        "not good & z <= 0.7",
        "0.2 < z < 0.6",
        "kind in ['ring', 'spiral'] and z != 0.5",
        "kind not in ('ring',)",
        "mass - 2 * z ** 2 >= 9.5 / 1.1",
        "-z < -0.3",
        "good",
        "`r mag` < 18 & good",
        "abs(mass - 10) < 0.5",
        "sqrt(z) > 0.5 and log10(mass) > 1",
        "flags % 2 == 1",
        "(z > 0.1) & (mass < 10)",
        "z > 0.5 |\n mass < 9",
        "good == True",
    ],
)
def test_conditions_are_pandas(text):
    pandas = text.replace("\n", " ").replace("(z > 0.1) & (mass < 10)", "(z>0.1)&(mass<10)")
    pandas = pandas.replace(" & ", " and ").replace(" | ", " or ").replace("~", "not ")
    assert_array_equal(evaluate(text), FRAME.eval(pandas).to_numpy())


def test_bits_and_tests():
    assert_array_equal(evaluate("has_bit(flags, 4)"), COLUMNS["flags"] & 4 != 0)
    assert_array_equal(evaluate("~has_bit(flags, 4 + 1)"), COLUMNS["flags"] & 5 == 0)


TRUTH = {"t": True, "f": False, "u": None}


@given(text=st.recursive(
    st.sampled_from(list(TRUTH)).map(lambda name: f"({name} > 0)"),
    lambda inner: st.one_of(
        inner.map(lambda each: f"not {each}"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda e: f"({' '.join(e)})"),
    ),
    max_leaves=12,
))
def test_unknown_values_follow_kleene(text):
    columns = {"t": np.array([1.0]), "f": np.array([-1.0]), "u": np.array([np.nan])}

    def kleene(tree):
        import ast

        if isinstance(tree, ast.Compare):
            return TRUTH[tree.left.id]
        if isinstance(tree, ast.UnaryOp):
            value = kleene(tree.operand)
            return None if value is None else not value
        values = [kleene(each) for each in tree.values]
        decides = isinstance(tree.op, ast.Or)
        if decides in values:
            return decides
        return None if None in values else not decides

    tree = __import__("ast").parse(text, mode="eval").body
    assert evaluate(text, columns)[0] == (kleene(tree) is True)


def test_masked_values_fulfil_nothing():
    columns = {"mass": np.arange(6.0), "z": np.array([0, np.nan, 1, 1, 1, 1])}
    masks = {"mass": np.arange(6) == 3}
    for text in ("mass > 1", "~(mass > 1)", "mass + z > 0", "mass in [3]"):
        assert not evaluate(text, columns, masks)[3]
    assert evaluate("mass > 1 | z > 0", columns, masks)[3]
    assert evaluate("isnan(z)", columns).tolist() == [False, True] + [False] * 4
    assert np.flatnonzero(evaluate("~isfinite(mass)", columns, masks)).tolist() == [3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("z >", "cannot be read"),
        ("z > 0.1; z < 1", "cannot be read"),
        ("`z > 1", "cannot be read"),
        ("z + 1", "is no condition"),
        ("flags & 8", "'flags' is no condition"),
        ("flags", "is no condition"),
        ("1 < 2", "names no column"),
        ("True", "is no condition"),
        ("kind > 3", "compares text with numbers"),
        ("kind + 1 > 3", "'kind' is text"),
        ("z in mass", "is no list"),
        ("z is 3", "not understood"),
        ("__import__('os').system('true') == 0", "not understood"),
        ("open(z) > 1", "no function known here"),
        ("abs(z, z) > 1", "no function known here"),
        ("z.real > 1", "not understood"),
        ("z[0] > 1", "not understood"),
        ("[each for each in z] == 1", "not understood"),
        ("(lambda: z)() > 1", "not understood"),
        ("(z := 3) > 1", "not understood"),
        ("f'{z}' == 'a'", "not understood"),
        ("-" * 6000 + "z > 0", "cannot be read|nested too deeply"),
        ("z > 0 and " * 2000 + "z > 0", "characters"),
    ],
)
def test_anything_else_is_refused(text, reason):
    with pytest.raises(ValueError, match=f"(?s)^where is .*({reason}).*expected comparisons"):
        evaluate(text)


def test_unknown_columns_are_named():
    with pytest.raises(ValueError, match="names 'redshift', which is no column .* z, mass, flags"):
        evaluate("redshift > 1")
    assert column_names("abs(z) > 1 & `r mag` < 3 and z < 5") == ["r mag", "z"]

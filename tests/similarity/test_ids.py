"""Rows by their ids against a dictionary of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from astroclip.similarity.ids import IdLookup, _hashes

NAMES = st.text(max_size=5).map(lambda text: text.rstrip("\0"))


@given(ids=st.lists(NAMES, min_size=1, max_size=30), wanted=st.lists(NAMES, max_size=10))
def test_rows_are_a_dictionarys(ids, wanted):
    wanted = wanted + ids[:3]
    number, rows = IdLookup(np.array(ids, dtype=str)).rows(wanted)
    expected = [
        (place, row) for place, name in enumerate(wanted) for row, own in enumerate(ids)
        if own == name
    ]
    assert list(zip(number.tolist(), rows.tolist(), strict=True)) == expected


def test_hashes_do_not_depend_on_the_width_and_collisions_do_not_matter(monkeypatch):
    names = np.array([f"galaxy-{row}" for row in range(5000)])
    assert (_hashes(names) == _hashes(names.astype("U40"))).all()
    assert len(np.unique(_hashes(names))) == 5000
    from astroclip.similarity import ids

    monkeypatch.setattr(ids, "_hashes", lambda each: np.zeros(len(each), dtype=np.uint64))
    number, rows = IdLookup(names[:50]).rows(["galaxy-7", "other"])
    assert (number.tolist(), rows.tolist()) == ([0], [7])

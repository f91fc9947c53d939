"""Numbers for keys, against a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kernels.numbering import LEAST, Numbering

# Few low bits: keys meet in the same places of the table.
keys = st.lists(st.integers(0, 40).map(lambda n: (n % 8) | (n << 40)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(keys, max_size=5), keys)
def test_the_same_as_a_dictionary(added: list[list[int]], asked: list[int]) -> None:
    numbering, known = Numbering(), dict[int, int]()
    for part in added:
        for key in part:
            if key:
                known.setdefault(key, len(known))
        found = numbering.add(np.array(part, np.uint64))
        assert found.tolist() == [known.get(key, -1) for key in part]
    assert numbering.count == len(known)
    assert numbering.keys().tolist() == list(known)
    assert numbering.find(np.array(asked, np.uint64)).tolist() == [
        known.get(key, -1) for key in asked
    ]


def test_numbers_stay_while_the_table_grows() -> None:
    numbering = Numbering()
    every = np.random.default_rng(0).integers(1, 2**63, 10 * LEAST).astype(np.uint64)
    for start in range(0, len(every), 700):
        numbering.add(every[start : start + 700])
    assert numbering.count == len(every)
    assert np.array_equal(numbering.find(every), np.arange(len(every)))
    assert np.array_equal(numbering.add(every[::-1]), np.arange(len(every))[::-1])

"""Which messages a rebuild leaves out; the letters themselves come in tests/faults/poison.py."""

from __future__ import annotations

import pytest

from streams.offline.aside import Aside
from streams.schema import MAX_MESSAGE_BYTES

LONG = b"x" * (MAX_MESSAGE_BYTES + 1)


@pytest.mark.parametrize(
    ("letter", "place", "value", "left_out"),
    [
        (b"v", (0, 5), b"v", True),
        (b"v", (0, 6), b"v", False),
        (b"v", (1, 5), b"v", False),
        (b"v", (0, 5), b"another topic's", False),
        (b"", (0, 5), b"4111111111111111", True),
        (LONG[:-1], (0, 5), LONG, True),
    ],
    ids=["it", "another offset", "another partition", "other bytes", "blanked", "cut"],
)
def test_only_the_message_of_a_letter_is_left_out(
    letter: bytes, place: tuple[int, int], value: bytes, left_out: bool
) -> None:
    assert Aside({(0, 5): letter}).has(*place, value) is left_out

"""F11: hostile messages, card numbers in every field, headers that lie; and the decoder fuzzed."""

from __future__ import annotations

from typing import Any, Final

import pytest

from streams.batch import Headers
from streams.pipeline import read
from streams.schema import Reject
from tests.faults.conftest import Tally
from tests.faults.hostile import PANS, attack, run
from tests.messages import FULL, batch_of, message

MESSAGES: Final = 5_000


def test_hostile_messages(tally: Tally) -> None:
    with tally("F11", "hostile messages through the whole pure way") as row:
        row.count(attack(MESSAGES))


TEXT_FIELDS: Final = [name for name, value in FULL.items() if isinstance(value, str)]


@pytest.mark.parametrize("name", [*TEXT_FIELDS, "ext", "key of ext", "key"])
def test_a_card_number_in_any_field_goes_nowhere(name: str) -> None:
    for pan in (*PANS, "4111 1111 1111 1111", "4111-1111-1111-1111"):
        changes: dict[str, Any] = {name: pan}
        key = b"acct-1"
        if name == "ext":
            changes = {"ext": {"note": pan}}
        elif name == "key of ext":
            changes = {"ext": {pan: "x"}}
        elif name == "key":
            changes, key = {}, pan.encode()
        value = message(**changes)
        batch = batch_of([value], [key])
        columns = read(batch, {}, 86_400_000)
        assert len(columns) == 0 and len(columns.rejects) == 1, (name, pan)
        (rejected,) = columns.rejects
        # Of any other reason the dead letter would carry the number.
        assert rejected.reason == Reject.PAN_FOUND and pan not in rejected.detail, (name, pan)
        assert run([value], [key], None) == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("a", b"x" * 9_000)],
        [("h", b"")] * 40,
        [("\u202e", b"x")],
        [("reason", b"approve"), ("offset", b"0")],
        [("pan", PANS[0].encode())],
    ],
)
def test_headers_do_not_decide(headers: Headers) -> None:
    assert run([message(), b"{"], [b"acct-1", b"acct-1"], [headers, headers]) >= 1

"""From a reject to its dead letter."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from streams.batch import Headers
from streams.columns import Rejected
from streams.deadletter import dead_letter
from streams.decode import decode
from streams.schema import BLANKED, MAX_MESSAGE_BYTES, Reject
from tests.messages import MAX_FUTURE_MS, batch_of, message

SCHEMA = json.loads(
    (Path(__file__).parent.parent / "streams/schemas/dead_letter_headers.json").read_text("utf-8")
)
OURS = ["reason", "detail", "topic", "partition", "offset", "schema_version"]


def test_value_key_and_headers_are_the_originals() -> None:
    value, sent = b'{"amount":\xff', [("trace", b"\x00\xff"), ("reason", b"mine")]
    batch = batch_of([message(), value], [b"acct-1", b"\xfe"], headers=[[], sent])
    columns = decode(batch, MAX_FUTURE_MS)
    letter = dead_letter(batch, columns.rejects[0])
    assert (letter.offset, letter.key, letter.value) == (101, b"\xfe", value)
    assert list(letter.headers[:2]) == sent
    assert [name for name, _ in letter.headers[2:]] == OURS
    named = dict(letter.headers)
    assert named["reason"] == b"bad_utf8"
    assert (named["topic"], named["partition"], named["offset"]) == (b"transactions", b"3", b"101")


@pytest.mark.parametrize("reason", list(Reject))
def test_headers_are_as_published(reason: Reject) -> None:
    batch = batch_of([message()], [b"acct-1"])
    letter = dead_letter(batch, Rejected(0, reason, "detail é"))
    headers = {name: content.decode() for name, content in letter.headers}
    jsonschema.validate({**headers, "time": "1700000000000"}, SCHEMA)


@pytest.mark.parametrize("reason", sorted(BLANKED))
def test_nothing_of_the_message_stays_where_it_must_not(reason: Reject) -> None:
    batch = batch_of([message()], [b"acct-1"], headers=[[("trace", b"acct-1")]])
    letter = dead_letter(batch, Rejected(0, reason, "somewhere"))
    assert (letter.key, letter.value) == (None, b"")
    assert [name for name, _ in letter.headers] == OURS


@pytest.mark.parametrize("reason", [Reject.QUARANTINED, Reject.ID_CONFLICT])
@pytest.mark.parametrize("place", ["value", "escaped", "cut", "key", "header", "header name"])
def test_a_card_number_in_a_message_that_nobody_examined(reason: Reject, place: str) -> None:
    card = "4111111111111111"
    values = {
        "value": message(card_id=card),
        "escaped": message(card_id="X").replace(b"X", b"\\u0034" + card[1:].encode()),
        "cut": message(card_id=card)[:-1],
    }
    headers = {"header": [("h", card.encode())], "header name": [(card, b"")]}
    key = card.encode() if place == "key" else b"acct-1"
    batch = batch_of([values.get(place, message())], [key], headers=[headers.get(place, [])])
    letter = dead_letter(batch, Rejected(0, reason, "why"))
    assert (letter.key, letter.value) == (None, b"")
    assert dict(letter.headers)["reason"] == reason.encode()
    assert card.encode() not in repr(letter).encode()
    clean = batch_of([message()], [b"acct-1"], headers=[[("trace", b"1")]])
    letter = dead_letter(clean, Rejected(0, reason, "why"))
    assert (letter.key, letter.value, letter.headers[0]) == (b"acct-1", message(), ("trace", b"1"))


def test_a_card_number_leaves_by_no_way() -> None:
    card = b"4111111111111111"
    sent: list[Headers] = [[], [("h", card)], [(card.decode(), b"")], []]
    values = [message(card_id=card.decode()), b"{", b"{", b"{"]
    batch = batch_of(values, [b"acct-1", b"acct-1", b"acct-1", card], headers=sent)
    columns = decode(batch, MAX_FUTURE_MS)
    assert len(columns.rejects) == 4
    for rejected in columns.rejects:
        assert card not in repr(dead_letter(batch, rejected)).encode()


def test_bulk_is_cut() -> None:
    headers: list[Headers] = [[("h", b"x" * 9_000)], []]
    batch = batch_of([message(), b"y" * 10**6], [b"k" * 10**5] * 2, headers=headers)
    columns = decode(batch, MAX_FUTURE_MS)
    letters = [dead_letter(batch, each) for each in columns.rejects]
    assert [name for name, _ in letters[0].headers] == OURS
    assert letters[0].value == message()
    assert letters[1].value == b"y" * MAX_MESSAGE_BYTES
    assert letters[0].key is None
    assert dict(letters[1].headers)["detail"] == b"1000000 bytes, more than 65536"


def test_null_stays_null() -> None:
    batch = batch_of([None], [None], headers=[[("h", None)]])  # type: ignore[list-item]
    letter = dead_letter(batch, decode(batch, 0).rejects[0])
    assert (letter.key, letter.value) == (None, None)
    assert letter.headers[0] == ("h", b"")

"""Decoding many messages: no verdict and no column depends on what is decoded with them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import Headers
from streams.columns import Columns
from streams.decode import decode
from streams.decode import decode_all as decode_batches
from tests.messages import (
    BROKER_TIME,
    MAX_FUTURE_MS,
    batch_of,
    decode_all,
    decode_one,
    message,
    odd_documents,
    valid_documents,
)
from tests.test_decode import VERDICTS


def same(one: Columns, other: Columns) -> None:
    for name in Columns.__dataclass_fields__:
        if name != "batch":
            a, b = getattr(one, name), getattr(other, name)
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b, err_msg=name)
            else:
                assert list(a) == list(b), name


def one_by_one(values: list[bytes | None], keys: list[bytes | None]) -> list[Columns]:
    return [decode_all([value], [key]) for value, key in zip(values, keys, strict=True)]


def check_batch(values: list[bytes | None], keys: list[bytes | None]) -> None:
    whole = decode_all(values, keys)
    singles = one_by_one(values, keys)
    assert len(whole) + len(whole.rejects) + len(whole.tombstones) == len(values)
    assert whole.row.tolist() == [i for i, each in enumerate(singles) if len(each)]
    accepted = [each for each in singles if len(each)]
    for name in ("words", "event_time", "amount", "merchant", "terminal", "billing_country",
                 "ip_country", "latitude", "longitude"):  # fmt: skip
        column = getattr(whole, name)
        assert [row.tolist() for row in column] == [
            getattr(each, name)[0].tolist() for each in accepted
        ]
    for name in ("account_id", "transaction_id", "tenant_id", "currency", "docs"):
        assert list(getattr(whole, name)) == [getattr(each, name)[0] for each in accepted]
    assert [(each.row, each.reason, each.detail) for each in whole.rejects] == [
        (i, *((r := single.rejects[0]).reason, r.detail))
        for i, single in enumerate(singles)
        if single.rejects
    ]
    assert whole.tombstones == [
        (i, single.tombstones[0][1]) for i, single in enumerate(singles) if single.tombstones
    ]


_raw = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=5)),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=5), inner)),
    ).map(lambda value: json.dumps(value).encode()),
    valid_documents().map(orjson.dumps),
    odd_documents().map(lambda document: json.dumps(document).encode()),
    odd_documents().map(lambda document: json.dumps(document, indent=2).encode())
    .flatmap(lambda value: st.integers(0, len(value)).map(lambda cut: value[:cut])),
)  # fmt: skip
_keyed = st.tuples(_raw, st.sampled_from([b"acct-1", b"acct-2", "acct-é".encode(), None, b"\xff"]))


@settings(max_examples=80, deadline=None)
@given(st.lists(_keyed, max_size=8))
def test_a_batch_is_decoded_as_its_messages_one_by_one(
    messages: list[tuple[bytes | None, bytes | None]],
) -> None:
    check_batch([value for value, _ in messages], [key for _, key in messages])


@settings(max_examples=100, deadline=None)
@given(st.lists(valid_documents(), min_size=1, max_size=6))
def test_valid_documents_are_accepted(documents: list[dict[str, Any]]) -> None:
    columns = decode_all(
        [orjson.dumps(document) for document in documents],
        [document["account_id"].encode() for document in documents],
    )
    assert columns.rejects == []
    assert list(columns.docs) == documents


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(odd_documents(), valid_documents()), min_size=1, max_size=6))
def test_escapes_are_read_as_if_there_were_no_second_pass(documents: list[dict[str, Any]]) -> None:
    """The way of messages with escapes against `examine` and orjson alone."""
    values: list[bytes | None] = [json.dumps(document).encode() for document in documents]
    values[::2] = [(value or b"").replace(b"e", b"\\u0065") for value in values[::2]]
    keys: list[bytes | None] = [
        str(document.get("account_id")).encode(errors="replace") for document in documents
    ]
    headers: list[Headers] = [[("h", b"x" * (20_000 * (i % 3 == 1)))] for i in range(len(values))]
    batch = batch_of(values, keys, headers=headers)
    found = decode(batch, MAX_FUTURE_MS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.decode.retold", lambda value: None)
        same(found, decode(batch, MAX_FUTURE_MS))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_batches_are_read_together_as_if_each_came_alone(data: st.DataObject) -> None:
    """Good, odd and null messages, with headers or without, in any cut; also over a PART's end."""
    one = st.one_of(
        valid_documents().map(orjson.dumps),
        odd_documents().map(lambda document: json.dumps(document).encode()),
        st.none(),
        st.binary(max_size=20),
    )
    batches = []
    for number in range(data.draw(st.integers(1, 4))):
        values = data.draw(st.lists(one, max_size=4))
        headers: list[Headers] = [
            [("h", b"x" * (9_000 * (i % 3 == 1)))] for i, _ in enumerate(values)
        ]
        times = data.draw(st.lists(st.sampled_from([BROKER_TIME, -1, 0]), min_size=4, max_size=4))
        batches.append(
            batch_of(
                values,
                [data.draw(st.sampled_from([b"acct-1", b"acct-2", None])) for _ in values],
                times=times[: len(values)],
                headers=headers if number % 2 else None,
            )
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.decode.PART", data.draw(st.sampled_from([1, 3, 1_024])))
        together = decode_batches(batches, MAX_FUTURE_MS)
    for columns, batch in zip(together, batches, strict=True):
        assert columns.batch is batch
        same(columns, decode(batch, MAX_FUTURE_MS))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.one_of(st.none(), st.binary(max_size=80)))
def test_any_bytes_are_accounted_for(value: bytes, key: bytes | None) -> None:
    columns = decode_one(value, key)
    assert len(columns) + len(columns.rejects) + len(columns.tombstones) == 1


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_are_accounted_for(data: st.DataObject) -> None:
    value = bytearray(message())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at] = data.draw(st.integers(0, 255))
    check_batch([message(), bytes(value), None, message()], [b"acct-1"] * 4)


def test_a_bad_neighbour_changes_nothing() -> None:
    values: list[bytes | None] = [message(transaction_id=f"t{i}") for i in range(50)]
    good = decode_all(values, [b"acct-1"] * 50)
    for bad in (b"{", None, message(amount="x"), message(novelty=1), message(ext={"k": "é"})):
        mixed = decode_all([*values[:25], bad, *values[25:]], [b"acct-1"] * 51)
        keep = np.isin(mixed.row, [i for i in range(51) if i != 25])
        np.testing.assert_array_equal(mixed.words[keep], good.words)


def test_an_empty_batch() -> None:
    columns = decode_all([], [])
    assert len(columns) == 0
    assert columns.words.shape == (0, 4)


def test_the_same_batch_decodes_to_the_same_columns() -> None:
    values = [value for value, _ in VERDICTS]
    keys = [b"acct-1"] * len(values)
    same(decode_all(values, keys), decode_all(values, keys))

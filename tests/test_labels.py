"""Labels: what is one, and what was known at a moment."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.labels import (
    DISPUTED,
    FRAUD,
    LEGITIMATE,
    NOT_KNOWN,
    VERDICTS,
    LabelBook,
    decode_labels,
    fault,
    frauds,
    in_order,
    joined,
    transaction_key,
    transaction_keys,
)
from streams.schema import MAX_MESSAGE_BYTES, MIN_EVENT_TIME_MS

START = 1_700_000_000_000


def label(**changes: Any) -> bytes:
    given = {
        "label_id": "l-1",
        "transaction_id": "t-1",
        "account_id": "a-1",
        "label": "fraud",
        "label_time": START,
        **changes,
    }
    return orjson.dumps(given)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b"7",
        b"{",
        b"\xff",
        b"x" * 70_000,
        label(label="maybe"),
        label(label=None),
        label(label_time=1_700_000_000),
        label(label_time=1.7e12),
        label(label_time=True),
        label(account_id=""),
        label(account_id="a\0b"),
        label(account_id="x" * 65),
        label(transaction_id=7),
        label(label_id=None),
        label(fraud_type=["card"]),
        label(colour="red"),
        label(schema_version=2),
        label(source="4111111111111111"),
        label(source="٤111111111111111"),
        label(source="@").replace(b"@", b"\\u0034111111111111111"),
    ],
)
def test_what_is_no_label_is_counted(value: bytes | None) -> None:
    labels = decode_labels([label(), value, label(label_id="l-2")])
    assert len(labels) == 2
    assert labels.bad == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "Fraud"}, "label: not one of disputed, fraud, legitimate"),
        ({"label": None}, "label: missing"),
        ({"label_time": 1_735_689_600}, f"label_time: not in {MIN_EVENT_TIME_MS}.."),
        ({"note": "x"}, "a field that labels do not have"),
        ({"account_id": "4111111111111111"}, "check of a card number"),
    ],
)
def test_what_is_wrong_with_a_label_is_told_without_its_values(
    change: dict[str, Any], said: str
) -> None:
    assert said in str(fault(label(**change)))
    assert fault(label()) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "empty"),
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (label(source="@").replace(b"@", b"\\u0034111111111111111"), "check of a card number"),
        (label().ljust(MAX_MESSAGE_BYTES + 1), f"longer than {MAX_MESSAGE_BYTES} bytes"),
        (label().ljust(MAX_MESSAGE_BYTES), None),
        (label(source="Zürich", fraud_type='"quoted"'), None),
        (label(schema_version=1, source="desk", fraud_type=None), None),
    ],
)
def test_every_form_of_a_label_and_what_is_none(value: bytes | None, said: str | None) -> None:
    found = fault(value)
    assert found is None if said is None else said in str(found)
    assert decode_labels([value]).bad == (said is not None)


def test_columns() -> None:
    values = [label(label=name, label_time=START + i) for i, name in enumerate(VERDICTS)]
    labels = decode_labels(values)
    assert labels.bad == 0
    assert labels.verdict.tolist() == [FRAUD, LEGITIMATE, DISPUTED]
    assert labels.time.tolist() == [START, START + 1, START + 2]
    assert len(set(labels.key.tolist())) == 1


def test_a_label_time_that_passes_as_a_card_number_is_a_time() -> None:
    assert decode_labels([label(label_time=START + i) for i in range(100)]).bad == 0


def test_keys_tell_the_pair_apart() -> None:
    keys = transaction_keys(["ab", "a"], ["c", "bc"])
    assert keys[0] != keys[1]


def test_known_only_from_its_time_on() -> None:
    book = LabelBook(decode_labels([label()]))
    assert book.known(["a-1"], ["t-1"], START - 1).tolist() == [NOT_KNOWN]
    assert book.known(["a-1"], ["t-1"], START).tolist() == [FRAUD]
    assert book.known(["a-2", "a-1"], ["t-1", "t-2"], START).tolist() == [NOT_KNOWN] * 2
    assert book.latest == START


def test_the_newest_label_wins_whatever_came_last() -> None:
    values = [
        label(label="legitimate", label_time=START + 5),
        label(label="fraud", label_time=START + 9, label_id="l-2"),
        label(label="disputed", label_time=START + 7, label_id="l-3"),
    ]
    for order in (values, values[::-1]):
        book = LabelBook(decode_labels(order))
        seen = [int(book.known(["a-1"], ["t-1"], START + i)[0]) for i in (4, 5, 7, 9, 100)]
        assert seen == [NOT_KNOWN, LEGITIMATE, DISPUTED, FRAUD, FRAUD]


def test_nothing_known() -> None:
    book = LabelBook(decode_labels([]))
    assert book.known(["a-1"], ["t-1"], START).tolist() == [NOT_KNOWN]
    assert book.known([], [], START).tolist() == []
    assert book.latest == 0
    assert [column.tolist() for column in book.newest(["a-1"], ["t-1"])] == [[NOT_KNOWN], [-1]]


def test_a_dispute_is_told_from_silence() -> None:
    """Waiting makes silence a verdict, and not what somebody claims."""
    book = LabelBook(
        decode_labels([label(), label(label="disputed", label_time=START + 3, label_id="l-2")])
    )
    verdict, time = book.newest(["a-1", "a-1"], ["t-1", "t-2"])
    assert verdict.tolist() == [NOT_KNOWN, NOT_KNOWN] and time.tolist() == [START + 3, -1]


Row = tuple[int, int, str, int]
_rows = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 5), st.sampled_from(sorted(VERDICTS)), st.integers(0, 3)
    ),
    max_size=20,
)


def as_message(row: Row) -> bytes:
    transaction, time, name, number = row
    return label(
        transaction_id=f"t-{transaction}",
        label_time=START + time,
        label=name,
        label_id=f"l-{number}",
    )


@settings(deadline=None)
@given(_rows, st.integers(-1, 6), st.randoms(use_true_random=False))
def test_as_of_join_against_its_definition(
    rows: list[Row], moment: int, shuffler: random.Random
) -> None:
    book = LabelBook(decode_labels(map(as_message, rows)))
    found = book.known(["a-1"] * 4, [f"t-{i}" for i in range(4)], START + moment)
    for transaction in range(4):
        known = [row for row in rows if row[0] == transaction and row[1] <= moment]
        newest = [row for row in known if row[1] == max(each[1] for each in known)]
        allowed = {VERDICTS[row[2]] for row in newest} or {NOT_KNOWN}
        assert int(found[transaction]) in allowed
    shuffled = shuffler.sample(rows, len(rows))
    again = LabelBook(decode_labels(map(as_message, shuffled)))
    then = again.known(["a-1"] * 4, [f"t-{i}" for i in range(4)], START + moment)
    assert then.tolist() == found.tolist()


@settings(deadline=None)
@given(_rows, st.integers(-1, 6))
def test_what_counts_by_its_definition(rows: list[Row], moment: int) -> None:
    """Also of two at one time, which only their rank tells apart."""

    def age(row: Row) -> tuple[int, int]:
        return row[1], xxhash.xxh3_64_intdigest(f"l-{row[3]}\0{row[2]}".encode())

    def counting(until: int) -> dict[int, Row]:
        return {row[0]: row for row in sorted(rows, key=age) if row[1] <= until}

    names = [f"t-{number}" for number in range(5)]
    book = LabelBook(decode_labels([*map(as_message, rows), b"{"]))
    assert (len(book), book.bad) == (len(rows), 1)
    assert book.latest == max((START + row[1] for row in rows), default=0)
    asked = transaction_keys(["a-1"] * 2, names[:2])
    assert book.strange(asked) == len({row[0] for row in rows} - {0, 1})
    then, now = counting(moment), counting(6)
    known = book.known(["a-1"] * 5, names, START + moment)
    assert known.tolist() == [VERDICTS[then[n][2]] if n in then else NOT_KNOWN for n in range(5)]
    verdict, came = book.newest(["a-1"] * 5, names)
    assert came.tolist() == [START + now[n][1] if n in now else -1 for n in range(5)]
    assert verdict.tolist() == [
        {"fraud": FRAUD, "legitimate": LEGITIMATE}.get(now[n][2] if n in now else "", NOT_KNOWN)
        for n in range(5)
    ]
    typed = [orjson.dumps(orjson.loads(as_message(row)) | kind_of(row)) for row in rows]
    assert frauds([b"[]", *typed, None]) == {
        transaction_key("a-1", f"t-{n}"): kind_of(row).get("fraud_type", "fraud")
        for n, row in now.items()
        if row[2] == "fraud"
    }


def kind_of(row: Row) -> dict[str, str]:
    """The type that a label tells; the odd ones tell none."""
    return {} if row[3] % 2 else {"fraud_type": f"kind {row[3]}"}


@settings(deadline=None)
@given(_rows, st.integers(0, 20))
def test_parts_join_to_the_whole(rows: list[Row], cut: int) -> None:
    values = [*map(as_message, rows), b"{"]
    whole = in_order(decode_labels(values))
    parts = joined([decode_labels(values[:cut]), decode_labels(values[cut:])])
    assert parts.bad == 1
    ordered = in_order(parts)
    assert ordered.key.tolist() == whole.key.tolist()
    assert ordered.verdict.tolist() == whole.verdict.tolist()

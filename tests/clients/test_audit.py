"""The balance sheet: each way in which the books can fail to balance, found from the log alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from streams.adapters.canonical import LABEL
from streams.clients.audit import Balance, _recognise_elsewhere, audit, balance, quality
from streams.clients.ledger import Ledger, digest
from streams.clients.publish import labels_in
from streams.clients.summary import summary
from streams.clients.writer import write_table
from streams.errors import ConfigError, FormatError
from streams.labels import frauds, transaction_key
from streams.sections import KafkaSettings
from streams.settings import Settings
from tests.clients.records import alert, put, score, settings, transaction
from tests.clients.test_publisher import flags, run
from tests.clients.test_subscriber import headers


def message(number: int) -> bytes:
    return orjson.dumps(transaction(number))


def source(offset: int) -> dict[str, Any]:
    return {"topic": "transactions", "partition": 0, "offset": offset}


class Books:
    """One partition: offset -> message, and what came of it."""

    def __init__(self, contents: list[bytes | None]) -> None:
        self.ledger = Ledger(0, 100, 100 + len(contents))
        for row, content in enumerate(contents):
            self.ledger.transaction(100 + row, b"a1", content, 1_000 + row)

    def score(self, offset: int, decision: str = "approve", time: int = 1_500, **more: Any) -> None:
        record = score(offset, decision, source=source(offset), **more)
        self.ledger.add_score(record, orjson.dumps(record), time)

    def alert(self, offset: int, decision: str, time: int = 1_500, **more: Any) -> None:
        record = alert(offset, decision, source=source(offset), **more)
        self.ledger.add_alert(record, orjson.dumps(record), time)

    def close(self) -> Balance:
        return balance({0: self.ledger}, {})


def good() -> Books:
    """Scored, dead, a duplicate, an erasure, scored with an alert, and a duplicate at the end."""
    books = Books([message(0), b"?", message(0), None, message(4), message(4)])
    books.score(100, time=1_010)
    books.ledger.add_dead(101, "bad_json", 1_500)
    books.score(104, "block", time=1_054, late=True)
    books.alert(104, "block")
    return books


def test_books_that_balance() -> None:
    found = good().close()
    assert found.balanced
    assert found.published == 6
    assert found.headings == {
        "scored": 2, "dead": 1, "duplicate": 2, "erasure": 1, "missing": 0, "waiting": 0,
    }  # fmt: skip
    assert (found.late, found.dead_letters, found.repeats) == (1, {"bad_json": 1}, {})
    assert found.decisions == {"approve": 1, "review": 0, "block": 1}
    assert found.alerts == {"review": 0, "block": 1}
    assert found.latency_ms == {
        "p50": pytest.approx(30.0), "p99": pytest.approx(49.6), "p99_9": pytest.approx(49.96),
        "max": 50.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda b: b.score(101), "an offset both scored and dead"),
        (lambda b: b.alert(100, "review"), "an alert without such a score"),
        (lambda b: b.alert(104, "block", score=0.1), "alerts: a repeat differs from the first"),
        (lambda b: b.score(100, "review"), "scores: a repeat differs from the first"),
    ],
)
def test_contradictions(spoil: Callable[[Books], None], fault: str) -> None:
    books = good()
    spoil(books)
    found = books.close()
    assert (found.balanced, found.faults, found.repeats) == (False, {fault: 1}, {})


def test_alerts_that_lack_or_decide_otherwise() -> None:
    books = Books([message(0), message(1)])
    books.score(100, "review")
    books.score(101, "review")
    books.alert(101, "block")
    found = books.close()
    assert found.faults == {
        "no alert for a score to review or block": 1,
        "an alert that decides otherwise than its score": 1,
    }


def test_a_score_for_no_message() -> None:
    books = Books([message(0), message(1)])
    books.ledger.present[1] = False  # a gap: a control record, or compacted away
    books.score(100)
    assert books.close().balanced
    books.score(101)
    assert books.close().faults == {"a result for an offset that holds no message": 1}


def test_missing_and_waiting() -> None:
    books = Books([message(n) for n in (0, 1, 2, 3, 0, 5)])
    books.score(100)
    books.score(102)
    found = books.close()
    assert not found.balanced
    assert found.missing_at == [(0, 101)]
    # Behind the first message that nobody touched, nothing is a duplicate yet.
    assert found.headings == {
        "scored": 2, "dead": 0, "duplicate": 0, "erasure": 0, "missing": 1, "waiting": 3,
    }  # fmt: skip


def test_an_earlier_copy_in_another_partition_is_the_first_one() -> None:
    """Where partitions were added, an account's earlier messages stand in another one. A later copy
    proves nothing, nor does the same moment."""
    first, second = Books([message(0), message(1)]), Ledger(1, 100, 104)
    first.score(100)
    first.score(101)
    for row, (number, at) in enumerate(((0, 1_001), (1, 1_001), (2, 1_002), (0, 1_003))):
        second.transaction(100 + row, b"a1", message(number), at)
    record = score(102, source=source(102) | {"partition": 1})
    second.add_score(record, orjson.dumps(record), 1_500)
    books = {0: first.ledger, 1: second}
    before = balance(books, {}).headings
    assert (before["duplicate"], before["missing"]) == (1, 2)
    _recognise_elsewhere(books)
    after = balance(books, {}).headings
    assert (after["duplicate"], after["missing"]) == (2, 1)
    assert balance(books, {}).missing_at == [(1, 101)], "appended in the very millisecond"


def test_repeats_and_what_lies_outside() -> None:
    books = good()
    books.score(100, produced_time=7)
    books.alert(104, "block", produced_time=7)
    books.ledger.add_dead(101, "bad_json", 1_500)
    for offset in (99, 106):
        books.score(offset)
        books.alert(offset, "block")
        books.ledger.add_dead(offset, "bad_json", 1_500)
        books.ledger.transaction(offset, b"a1", b"x", 0)
    found = books.close()
    assert found.balanced
    assert found.repeats == {"scores": 1, "alerts": 1, "transactions.dlq": 1}
    assert found.headings == good().close().headings
    told = next(line for line in summary(found) if line.startswith("sent twice"))
    assert told.endswith("(equal but for produced_time, readers drop them)"), "not the same bytes"


def test_an_erased_account_may_have_been_scored() -> None:
    books = good()
    books.ledger.add_dead(100, "forgotten", 1_500)
    books.ledger.add_dead(102, "forgotten", 1_500)
    found = books.close()
    assert found.balanced
    # What stands under "scored" is no dead letter of the sheet, and neither is its reason.
    assert (found.headings["scored"], found.headings["dead"]) == (2, 2)
    assert found.dead_letters == {"bad_json": 1, "forgotten": 1}


def test_the_same_bytes_under_another_key_are_no_duplicate() -> None:
    books = Books([message(0), message(1)])
    books.ledger.transaction(101, b"a2", message(0), 0)
    books.score(100)
    books.ledger.add_dead(101, "key_mismatch", 1_500)
    assert books.close().headings["duplicate"] == 0


def test_quality() -> None:
    names = [f"t{n}" for n in range(6)]
    identity = np.array([digest(name.encode()) for name in names], np.uint64)
    decision = np.array([0, 1, 2, 2, 0, 1], np.int8)
    fraud = {digest(name.encode()): kind for name, kind in
             (("t0", "mule"), ("t2", "mule"), ("t3", "order"), ("elsewhere", "mule"))}  # fmt: skip
    found = quality(identity, decision, fraud)
    assert found == {
        "frauds": 3, "precision": 2 / 4, "recall": 2 / 3, "block_precision": 1.0,
        "block_recall": 2 / 3,
        "by_type": {"mule": {"frauds": 2, "recall": 0.5}, "order": {"frauds": 1, "recall": 1.0}},
    }  # fmt: skip
    assert quality(identity, decision, {}) is None
    nothing = quality(identity[:0], decision[:0], fraud)
    assert nothing is not None
    assert nothing["precision"] is None


LABELS = [
    ("a", "t1", "fraud", 5, "mule"),
    ("a", "t2", "fraud", 5, None),
    ("a", "t1", "legitimate", 6, None),
    ("a", "t3", "legitimate", 5, None),
    ("a", "t3", "fraud", 6, "order"),
    ("a", "t4", "disputed", 9, None),
    ("b", "t1", "fraud", 5, "order"),
]
MOMENT_MS = 1_735_689_600_000


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_labels_in_a_file(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"schema_version": 1, "label_id": f"l{n}", "transaction_id": name, "account_id": account,
         "label": label, "label_time": MOMENT_MS + time, "source": None, "fraud_type": kind}
        for n, (account, name, label, time, kind) in enumerate(LABELS)
    ]  # fmt: skip
    path = tmp_path / f"l.{suffix}"
    write_table(path, pa.Table.from_pylist(rows, schema=LABEL))
    assert frauds(labels_in(path)) == {
        transaction_key("a", "t2"): "fraud",
        transaction_key("a", "t3"): "order",
        transaction_key("b", "t1"): "order",
    }
    path.write_text('{"label_id": "l", "account_id": "a"}')
    with pytest.raises(FormatError):
        list(labels_in(path))


def test_a_file_that_holds_no_labels_is_told_before_anybody_waits_for_a_server(
    tmp_path: Path,
) -> None:
    nowhere = Settings(kafka=KafkaSettings(bootstrap="127.0.0.1:1"))
    junk, payments = tmp_path / "junk.jsonl", tmp_path / "payments.jsonl"
    junk.write_bytes(b"\xff\x00")
    payments.write_bytes(message(0))
    for path, wrong, told in (
        (tmp_path / "none.parquet", ConfigError, "no file"),
        (tmp_path, ConfigError, "is a folder"),
        (junk, FormatError, "not JSON"),
        (payments, FormatError, "holds transactions, not labels"),
    ):
        with pytest.raises(wrong, match=told):
            audit(nowhere, path)


def test_a_label_is_of_the_account_s_own_transaction_and_its_newest_word_counts(
    kafka: str, topic_prefix: str
) -> None:
    place = settings(kafka, topic_prefix)
    name = place.topic("transactions")
    pair = [transaction(0, account) for account in ("a1", "a2")]
    put(kafka, name, pair, key=b"a1")
    results = [
        score(0, "review", account_id=f"a{n + 1}", source=source(n) | {"topic": name})
        for n in range(2)
    ]
    put(kafka, place.topic("scores"), results)
    label = {"label_id": "l", "transaction_id": "t0", "account_id": "a1", "label": "fraud",
             "label_time": MOMENT_MS}  # fmt: skip
    put(kafka, place.topic("labels"), [label])
    found = audit(place).quality
    assert found is not None and (found["frauds"], found["precision"]) == (1, 0.5)
    corrected = label | {"label": "legitimate", "label_time": MOMENT_MS + 1}
    put(kafka, place.topic("labels"), [corrected])
    assert audit(place).quality is None


def test_the_books_of_a_real_topic(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    place = settings(kafka, topic_prefix)
    name = place.topic("transactions")
    put(kafka, name, [transaction(n) for n in (0, 1, 1, 3)], key=b"a1")
    put(kafka, name, [b"broken", None], partition=1, key=b"a2")
    results = [score(n, source={"topic": name, "partition": 0, "offset": n}) for n in (0, 1, 3)]
    results[0] = results[0] | {"decision": "review"}
    foreign = score(9, source={"topic": "other", "partition": 0, "offset": 0})
    put(kafka, place.topic("scores"), [*results, results[1], foreign])
    put(kafka, place.topic("alerts"), [alert(0) | results[0]])
    label = {"label_id": "l", "transaction_id": "t0", "account_id": "a0", "label": "fraud",
             "label_time": MOMENT_MS}  # fmt: skip
    put(
        kafka,
        place.topic("labels"),
        [b"{}", {**label, "label_id": "x", "label_time": "soon"}, b"[]", label],
    )
    code, _, err = run("audit", "--json", *flags(place))
    assert code == 1
    assert "read 6 of transactions" in err
    own = [(n, b"1" if n == "partition" else v) for n, v in headers("bad_json", 0, name)]
    put(kafka, place.topic("transactions.dlq"), [b"broken"], headers=own)
    code, out, _ = run("audit", "--json", *flags(place))
    told = orjson.loads(out)
    assert code == 0
    assert told["headings"] == {
        "scored": 3, "dead": 1, "duplicate": 1, "erasure": 1, "missing": 0, "waiting": 0,
    }  # fmt: skip
    assert told["repeats"] == {"scores": 1}
    assert (told["quality"]["precision"], told["quality"]["recall"]) == (1.0, 1.0)
    assert 0 < told["latency_ms"]["p50"] < 60_000
    found = audit(place)
    assert found.as_json() == told
    text = "\n".join(summary(found))
    assert "published                6" in text
    assert "bad_json 1" in text
    assert text.endswith("The books balance.")
    between = score(9, source={"topic": name, "partition": 0, "offset": 1.5})
    strange = [b"{", b"[]", {"source": 5}, {"source": {"topic": name}}, between]
    put(kafka, place.topic("scores"), strange)
    assert audit(place).faults == {"scores: a message that the service does not write": 5}
    empty = settings(kafka, f"{topic_prefix}empty-")
    assert audit(empty).balanced
    assert audit(place, start="2100-01-01").published == 0


def test_a_summary_of_books_that_do_not_balance() -> None:
    books = Books([message(n) for n in range(3)])
    books.score(101, "review", late=True)
    text = list(summary(books.close()))
    assert "= scored                 1   1 of them late" in text
    assert "! missing                1" in text
    assert "! not yet done           1" in text
    assert "  missing at partition/offset 0/100" in text
    assert "! no alert for a score to review or block: 1" in text
    assert text[-1] == "THE BOOKS DO NOT BALANCE."


def test_a_span_ago_means_one_moment_for_all_topics(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading takes time: "5m" told to each topic anew would pass over the first results."""
    place = settings(kafka, topic_prefix)
    name = place.topic("transactions")
    put(kafka, name, [transaction(0)], key=b"a1")
    put(kafka, place.topic("scores"), [score(0, source=source(0) | {"topic": name})])
    put(kafka, name, [transaction(1)], key=b"a1")
    own = [(n, b"0" if n == "partition" else v) for n, v in headers("bad_json", 1, name)]
    put(kafka, place.topic("transactions.dlq"), [b"broken"], headers=own)

    passed_s = [0.0]
    clock = SimpleNamespace(time=lambda: time.time() + passed_s[0])
    monkeypatch.setattr("streams.clients.subscriber.time", clock)

    def told(topic: str, count: int) -> None:
        passed_s[0] += 600

    found = audit(place, start="5m", told=told)
    assert (found.published, found.headings["scored"], found.balanced) == (2, 1, True)


def test_a_duplicate_whose_first_copy_is_before_the_window(kafka: str, topic_prefix: str) -> None:
    place = settings(kafka, topic_prefix)
    name = place.topic("transactions")
    put(kafka, name, [transaction(0), transaction(1)], key=b"a1")
    put(kafka, name, [transaction(5)], key=b"a2", partition=1)
    time.sleep(0.3)
    between = datetime.now(UTC).isoformat()
    time.sleep(0.1)
    put(kafka, name, [transaction(0), transaction(2), transaction(1), transaction(0)], key=b"a1")
    put(kafka, name, [transaction(0)], key=b"a2", partition=1)
    put(kafka, place.topic("scores"), [score(2, source=source(3) | {"topic": name})])
    heard: dict[str, int] = {}
    found = audit(place, start=between, told=heard.__setitem__)
    assert found.headings == {
        "scored": 1, "dead": 0, "duplicate": 3, "erasure": 0, "missing": 0, "waiting": 1,
    }, "the same bytes in another partition, or under another key, are none"  # fmt: skip
    assert heard["transactions"] == 5
    assert heard["transactions before them, for duplicates"] == 3
    last = source(1) | {"topic": name, "partition": 1}
    put(kafka, place.topic("scores"), [score(5, source=last)])
    heard.clear()
    found = audit(place, start=between, told=heard.__setitem__)
    assert (found.balanced, found.headings["duplicate"]) == (True, 3)
    assert audit(place, start="earliest").headings["missing"] == 3

"""The balance sheet after `transactions` was deleted and made again: results of what it held."""

from __future__ import annotations

from streams.clients.audit import audit
from streams.clients.summary import summary
from tests.clients.records import alert, put, score, settings, transaction
from tests.clients.test_audit import Books, good, message, source
from tests.clients.test_subscriber import headers


def test_results_of_a_topic_that_was_replaced_are_no_results_of_the_new_one() -> None:
    """`transactions` was deleted and made again; `scores` keeps what was said of its offsets."""
    books, long_ago = good(), 1_000 - 60_001
    untold = Books([message(0), message(1)])
    for each in (books, untold):
        each.score(100, "review", time=long_ago)
        each.alert(100, "review", time=long_ago)
        each.ledger.add_dead(101, "bad_value", long_ago)
    found = books.close()
    assert found.balanced and found.headings == good().close().headings
    assert found.foreign == {"scores": 1, "alerts": 1, "transactions.dlq": 1}
    said = next(line for line in summary(found) if line.startswith("left out"))
    assert (
        "scores 1, alerts 1, transactions.dlq 1 (of messages that a topic made again does" in said
    )
    assert untold.close().headings["waiting"] == 2


def test_results_past_the_end_are_of_later_messages_or_of_a_longer_topic_that_is_gone() -> None:
    books = Books([message(0)])
    books.ledger.time[0] = books.ledger.latest = 1_000_000
    books.score(100, time=1_000_100)
    books.score(103, time=1_000_200)
    assert books.close().foreign == {}, "they came while the topics were read"
    for offset in (101, 103):
        books.score(offset, time=1_000_000 - 60_001)
    books.score(99, time=1)
    assert books.close().foreign == {"scores": 2}, "what stood before is no longer there to tell"
    assert books.close().balanced


def test_results_of_a_partition_that_the_topic_does_not_have_are_told(
    kafka: str, topic_prefix: str
) -> None:
    """`transactions` was deleted, and made again with fewer partitions."""
    place = settings(kafka, topic_prefix)
    name = place.topic("transactions")
    put(kafka, name, [transaction(0)], key=b"a1")
    gone = {"topic": name, "partition": 7, "offset": 0}
    results = [score(0, source=source(0) | {"topic": name}), score(1, "review", source=gone)]
    put(kafka, place.topic("scores"), results)
    put(kafka, place.topic("alerts"), [alert(1, "review", source=gone)] * 2)
    own = [(n, b"7" if n == "partition" else v) for n, v in headers("bad_json", 0, name)]
    put(kafka, place.topic("transactions.dlq"), [b"broken"], headers=own)
    found = audit(place)
    assert found.foreign == {"scores": 1, "alerts": 2, "transactions.dlq": 1}
    assert (found.balanced, found.published, found.decisions["review"]) == (True, 1, 0)

"""The balance sheet: is every published transaction accounted for, once, and how did it go?

In: the topics `transactions`, `scores`, `alerts`, `transactions.dlq`, and labels (a file, or the
topic). Out: a `Balance`. Does not ask the service or its state: what it says is proved from the
log alone. A transaction without a result counts as a duplicate only if the same key and bytes
stand before it in the partition, or were appended earlier to another one: where there are more
partitions than before, an account's earlier messages may be anywhere.

    published = scored + dead letters + duplicates + erasures, nothing missing, nothing waiting,
    one alert for each score to review or block, and repeats equal to the first but for the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from streams.clients.deadletters import parse
from streams.clients.ledger import DECISIONS, Ledger, content_of
from streams.clients.publish import labels_in
from streams.clients.records import record_of
from streams.clients.subscriber import Subscriber, fixed
from streams.connect import content_bytes
from streams.labels import frauds
from streams.settings import Settings

HEADINGS = ("scored", "dead", "duplicate", "erasure", "missing", "waiting")
SHOWN = 20

Fraud = dict[int, str]
"""Hash of account and transaction -> fraud type, of the transactions labelled as fraud."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The result. Latency is from broker append of a transaction to broker append of its score.

    quality is None without labels; missing_at names the first few offsets without a result; foreign
    counts results of messages that the topic does not hold, by topic: it held them before it was
    deleted and made again.
    """

    balanced: bool
    published: int
    headings: dict[str, int]
    late: int
    decisions: dict[str, int]
    alerts: dict[str, int]
    dead_letters: dict[str, int]
    repeats: dict[str, int]
    foreign: dict[str, int]
    faults: dict[str, int]
    latency_ms: dict[str, float] | None
    quality: dict[str, Any] | None
    missing_at: list[tuple[int, int]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def _sweep(
    settings: Settings, topic: str, start: str, told: Callable[[str, int], None]
) -> Iterator[Message]:
    """All messages of a topic as it stands now."""
    count = 0
    with Subscriber(topic, settings=settings, start=start, follow=False) as reader:
        for message in reader.messages():
            yield message
            count += 1
    told(topic, count)


def _place(message: Message) -> tuple[int, int, int]:
    """Partition, offset, time of append."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None and offset is not None
    return partition, offset, message.timestamp()[1]


def _open_books(
    settings: Settings, start: str, told: Callable[[str, int], None]
) -> dict[int, Ledger]:
    """The ledgers of all partitions, by number, with the transactions entered. That of a partition
    where nothing was read begins, and ends, at its end."""
    with Subscriber("transactions", settings=settings, start=start, follow=False) as reader:
        books: dict[int, Ledger] = {}
        count = 0
        for message in reader.messages():
            partition, offset, time = _place(message)
            if partition not in books:
                books[partition] = Ledger(partition, offset, reader.end(partition))
            books[partition].transaction(
                offset, content_bytes(message.key()), content_bytes(message.value()), time
            )
            count += 1
        for partition in reader.partitions:
            if partition not in books:
                end = reader.end(partition)
                books[partition] = Ledger(partition, end, end)
    told("transactions", count)
    return dict(sorted(books.items()))


def _enter_results(
    settings: Settings, books: dict[int, Ledger], start: str, told: Callable[[str, int], None]
) -> None:
    """Scores, alerts and dead letters into the books; those of other topics are passed over."""
    name, first = settings.topic("transactions"), next(iter(books.values()))
    for topic in ("scores", "alerts"):
        for message in _sweep(settings, topic, start, told):
            value = content_bytes(message.value())
            if value is None:
                continue
            record = record_of(topic, value)
            if record is None:
                first.faults[f"{topic}: a message that the service does not write"] += 1
                continue
            source = record["source"]
            if source["topic"] != name:
                continue
            book, time = books.get(source["partition"]), _place(message)[2]
            if book is None:
                # A topic loses no partition, but one that is made again may have fewer.
                first.foreign[topic] += 1
            elif topic == "scores":
                book.add_score(record, value, time)
            else:
                book.add_alert(record, value, time)
    for message in _sweep(settings, "transactions.dlq", start, told):
        letter = parse(message)
        found, partition, offset = letter.source
        if found == name and partition not in books:
            first.foreign["transactions.dlq"] += 1
        elif found == name:
            books[partition].add_dead(offset, letter.reason, _place(message)[2])


def _recognise_elsewhere(books: dict[int, Ledger]) -> None:
    """Look in the other partitions for earlier copies of messages without a result."""
    for book in books.values():
        open_ = book.unexplained()
        if not open_:
            continue
        wanted = np.array(sorted(open_), np.uint64)
        mine = book.first_times(wanted)
        for other in books.values():
            if other is not book:
                book.older.update(wanted[other.first_times(wanted) < mine].tolist())


def _recognise_older(
    settings: Settings, books: dict[int, Ledger], told: Callable[[str, int], None]
) -> None:
    """Look for the first copies of messages without a result before the books begin, as far back as
    the topic reaches; only when there are such messages."""
    open_ = {number: book.unexplained() for number, book in books.items()}
    wanted = set().union(*open_.values())
    ends = {number: book.base for number, book in books.items() if book.base}
    if not wanted or not ends:
        return
    count, first = 0, dict.fromkeys(ends, 0)
    with Subscriber(
        "transactions", settings=settings, start=first, ends=ends, follow=False
    ) as reader:
        for message in reader.messages():
            count += 1
            content = content_of(content_bytes(message.key()), content_bytes(message.value()))
            if content in wanted and content_bytes(message.value()) is not None:
                for number, some in open_.items():
                    if content in some:
                        books[number].older.add(content)
                wanted.discard(content)
                if not wanted:
                    break
    told("transactions before them, for duplicates", count)


def _latency(books: dict[int, Ledger]) -> dict[str, float] | None:
    spent = np.concatenate([(b.score_time - b.time)[b.scored & b.present] for b in books.values()])
    if not len(spent):
        return None
    p50, p99, p999 = np.percentile(spent, (50, 99, 99.9))
    return {"p50": float(p50), "p99": float(p99), "p99_9": float(p999), "max": float(spent.max())}


def fraud_on_topic(settings: Settings) -> Fraud:
    """Frauds of the `labels` topic, every label of it: a verdict may be corrected under its id."""
    with Subscriber("labels", settings=settings, start="earliest", follow=False) as reader:
        return frauds(content_bytes(message.value()) for message in reader.messages())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def quality(
    identity: NDArray[np.uint64], decision: NDArray[np.int8], fraud: Fraud
) -> dict[str, Any] | None:
    """Precision and recall of alerts, and of blocking alone, over the scored transactions.

    A fraud that nobody labelled counts as legitimate, so precision is a lower bound.
    """
    if not fraud:
        return None
    names = np.array(sorted(fraud), np.uint64)
    at = np.minimum(np.searchsorted(names, identity), len(names) - 1)
    bad = names[at] == identity
    kinds = [fraud[name] for name in identity[bad].tolist()]
    caught = Counter(k for k, d in zip(kinds, decision[bad].tolist(), strict=True) if d > 0)
    total, alerted, blocked = int(bad.sum()), decision > 0, decision == len(DECISIONS) - 1
    hits, stops = int((alerted & bad).sum()), int((blocked & bad).sum())
    return {
        "frauds": total,
        "precision": _share(hits, int(alerted.sum())),
        "recall": _share(hits, total),
        "block_precision": _share(stops, int(blocked.sum())),
        "block_recall": _share(stops, total),
        "by_type": {
            kind: {"frauds": count, "recall": caught[kind] / count}
            for kind, count in sorted(Counter(kinds).items())
        },
    }


def balance(books: dict[int, Ledger], fraud: Fraud) -> Balance:
    """Close the books."""
    headings: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    missing_at: list[tuple[int, int]] = []
    for book in books.values():
        closed = book.close()
        headings.update({name: int(closed[name].sum()) for name in HEADINGS})
        faults.update(book.contradictions())
        reasons.update(book.reasons(closed["dead"]))
        missing_at += [
            (book.partition, book.base + row) for row in np.flatnonzero(closed["missing"]).tolist()
        ]
    published = sum(int(book.present.sum()) for book in books.values())
    assert published == headings.total(), "an offset under two headings, or none"
    decision = np.concatenate([b.decision[b.scored] for b in books.values()])
    decided = np.bincount(decision, minlength=len(DECISIONS))
    alerted = np.concatenate([b.alert[b.alert > 0] for b in books.values()])
    return Balance(
        balanced=not (headings["missing"] or headings["waiting"] or faults),
        published=published,
        headings={name: headings[name] for name in HEADINGS},
        late=sum(int(b.late.sum()) for b in books.values()),
        decisions={name: int(n) for name, n in zip(DECISIONS, decided, strict=True)},
        alerts={
            name: int((alerted == code).sum()) for code, name in enumerate(DECISIONS) if code > 0
        },
        dead_letters=dict(reasons),
        repeats=dict(sum((b.repeats for b in books.values()), Counter())),
        foreign=dict(sum((b.foreign for b in books.values()), Counter())),
        faults=dict(faults),
        latency_ms=_latency(books),
        quality=quality(
            np.concatenate([b.identity[b.scored] for b in books.values()]), decision, fraud
        ),
        missing_at=missing_at[:SHOWN],
    )


def audit(
    settings: Settings,
    labels: Path | None = None,
    start: str = "earliest",
    told: Callable[[str, int], None] = lambda topic, count: None,
) -> Balance:
    """Read the topics as they stand and balance them.

    `start` leaves out transactions appended before it (results have shorter retention than
    transactions); they are read only to recognise duplicates of them, where something is open.
    `told` hears how many messages each topic held. Raises BrokerError, and for a file of labels
    ConfigError and FormatError, before anything is read.
    """
    start = fixed(start)
    fraud = None if labels is None else frauds(labels_in(labels))  # a wrong file is told at once
    books = _open_books(settings, start, told)
    _enter_results(settings, books, start, told)
    _recognise_elsewhere(books)
    if start != "earliest":
        _recognise_older(settings, books, told)
    return balance(books, fraud_on_topic(settings) if fraud is None else fraud)

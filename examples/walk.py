"""One payment's way through the pure half of the service, printed step by step.

In: nothing. Out: the text in `streams/README.md`. Needs no Kafka, no Redis and no model: a made-up
scorer stands in for one.
"""

from __future__ import annotations

import numpy as np

from model.stub import StubScorer
from streams import alerts
from streams.batch import Batch
from streams.decide import Thresholds
from streams.features import INDEX
from streams.pipeline import Policy, advance, read, score, settle
from streams.state import Arena

START_MS = 1_735_689_600_000
MESSAGES = [
    b'{"schema_version":1,"transaction_id":"t%d","account_id":"a1","event_time":%d,'
    b'"amount":%d,"currency":"EUR","merchant_id":"m%d"}' % (i, START_MS + at, amount, i % 2)
    for i, (at, amount) in enumerate([(0, 1_000), (20_000, 1_500), (50_000, 90_000)])
]
SHOWN = ("count_1m", "mean_1m", "places_1m", "since_last_s", "amount_ratio_30d")


def main() -> None:
    """Read, advance, score, settle, render."""
    n = len(MESSAGES)
    times = np.full(n, START_MS + 60_000, np.int64)
    batch = Batch("transactions", 3, np.arange(n), times, [b"a1"] * n, list(MESSAGES), None, n)
    print(f"the message    {len(MESSAGES[2])} bytes: {MESSAGES[2].decode()}")

    columns = read(batch, forgotten={}, max_future_ms=0)
    print(f"read           {n} messages, {len(columns.rejects)} refused; an event is 4 words:")
    print("               " + " ".join(f"{int(word):016x}" for word in columns.words[2]))

    arena = Arena(partition=3, capacity_bytes=1 << 20)
    arena.fill([(account, None) for account in arena.missing(columns.account_id)])
    work = advance(columns, arena, risk=None)
    told = ", ".join(f"{name} {work.features[2, INDEX[name]]:g}" for name in SHOWN)
    print(f"advance        {work.features.shape[1]} features, among them {told}")
    print(f"               {work.digest[2]:016x} is their digest")
    print(f"               {work.length[2]} events before it")

    (scores,) = score(StubScorer(), [work])
    print(f"score          {scores[2]:.6f}")

    policy = Policy(Thresholds(0.0, 1.0), {"model": "stub@1", "features": "f", "code": "c"})
    outcome = settle(work, scores, policy)
    assert outcome.entry is not None
    record = arena.record("a1")
    print(f"settle         an outbox entry of {len(outcome.entry)} bytes; the record is now")
    print(f"               {len(record)} bytes: {record[:16].hex()}...")

    for message in alerts.render(outcome.entry, START_MS + 60_000)[2::n]:
        print(f"{message.topic:14} {(message.value or b'').decode()}")


if __name__ == "__main__":
    main()

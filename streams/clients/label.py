"""A person's verdict on one transaction, as a label on Kafka.

In: a transaction_id, a verdict. Out: one label, with the account that the service's own results
name; and the verdict that stood before.
Does not know what a label is used for. A transaction without an alert and without a score is
refused: a mistyped id would be labelled in silence, as nothing answers a label.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from streams.clients.mentions import mentions, records
from streams.clients.publisher import Publisher
from streams.clients.view import moment
from streams.errors import ConfigError, FraudstreamError
from streams.labels import each_label, fault, newest
from streams.schema import SCHEMA_VERSION
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Labelled:
    """What was sent, the label that stood before (None: none), and whether the new one counts."""

    label: dict[str, Any]
    before: dict[str, Any] | None
    counts: bool

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"label": self.label, "before": self.before, "counts": self.counts}

    def text(self) -> str:
        """For a person at a terminal."""
        sent, before = self.label, self.before
        who = f"{sent['transaction_id']} of account {sent['account_id']}"
        if before is None:
            return f"{who}: {sent['label']}; no verdict before"
        stood = f"{before['label']}, known since {moment(before['label_time'])}"
        if self.counts:
            return f"{who}: {sent['label']}; before: {stood}"
        return f"{who}: {sent['label']} is sent, but a newer verdict counts: {stood}"


def label(
    settings: Settings,
    transaction: str,
    verdict: str,
    *,
    account: str | None = None,
    time_ms: int | None = None,
    source: str = "analyst",
    fraud_type: str | None = None,
    start: str = "earliest",
) -> Labelled:
    """Publish a verdict on a transaction that the service has scored; `time_ms` is when it became
    known, by default now.

    Raises ConfigError for what is no label, or where several accounts use the id and none is named;
    FraudstreamError for an unknown transaction; BrokerError.
    """
    seen = _seen(settings, transaction, account, start)
    if not seen:
        whole = start == "earliest"
        raise FraudstreamError(
            f"no alert and no score of a transaction {transaction}"
            + (" of that account" if account is not None else "")
            + ("" if whole else f" in what --from {start} reads"),
            remedy="`fraudstream alerts` shows the ids. Of what the topics no longer keep,"
            " `fraudstream publish labels.jsonl` sends labels"
            if whole
            else "Look further back with --from; without it all is read",
        )
    if len(seen) > 1:
        raise ConfigError(
            f"{len(seen)} accounts have a transaction {transaction}",
            remedy="Say which with --account; `fraudstream alerts` shows it",
        )
    ((found, event_time),) = seen.items()
    if time_ms is not None and time_ms < event_time:
        raise ConfigError(f"the payment is of {moment(event_time)}: later than --time")
    # A payment of a clock that runs ahead: a label older than its payment may not count.
    known = max(int(time.time() * 1_000), event_time) if time_ms is None else time_ms
    sent = {
        "schema_version": SCHEMA_VERSION,
        "label_id": f"label-{uuid.uuid4().hex}",
        "transaction_id": transaction,
        "account_id": found,
        "label": verdict,
        "label_time": known,
        "source": source,
    }
    if fraud_type is not None:
        sent["fraud_type"] = fraud_type
    value = orjson.dumps(sent)
    why = fault(value)
    if why is not None:
        raise ConfigError(f"this is no label: {why}")
    ((key, age, _),) = each_label([value])
    standing = newest(each_label(mentions(settings, "labels", transaction))).get(key)
    with Publisher(settings=settings) as out:
        out.send(sent)
    before = None if standing is None else dict(standing[1])
    return Labelled(sent, before, standing is None or standing[0] < age)


def _seen(settings: Settings, transaction: str, account: str | None, start: str) -> dict[str, int]:
    """The accounts that have this transaction, and its event_time: by the alerts, and by the scores
    where none of those is of it."""
    found: dict[str, int] = {}
    for topic in ("alerts", "scores"):
        for record in records(settings, topic, transaction, start):
            if account in (None, record["account_id"]):
                found[record["account_id"]] = record["event_time"]
        if found:
            break
    return found

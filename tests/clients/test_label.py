"""The verb `label` on a real Kafka: a verdict becomes a label that readers take."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
from typer.testing import CliRunner, Result

from streams.cli import build
from streams.clients.audit import fraud_on_topic
from streams.labels import fault, transaction_keys
from tests.clients import records


def label(kafka: str, prefix: str, *words: str) -> Result:
    places = ["--set", f"kafka.bootstrap={kafka}", "--set", f"kafka.topic_prefix={prefix}"]
    return CliRunner().invoke(build(), ["label", *words, *places])


def labels(kafka: str, prefix: str) -> list[dict[str, Any]]:
    values = [message.value() for message in records.everything(kafka, f"{prefix}labels")]
    assert [fault(value) for value in values] == [None] * len(values)
    found = [orjson.loads(value) for value in values]
    return sorted(found, key=lambda one: one["label_time"])


def test_a_verdict_becomes_a_label_and_the_newest_counts(kafka: str, topic_prefix: str) -> None:
    settings = records.settings(kafka, topic_prefix)
    records.put(kafka, f"{topic_prefix}alerts", [records.alert(8), b"no record: t8", None])
    records.put(kafka, f"{topic_prefix}scores", [records.score(9), records.score(8)])

    begin = int(time.time() * 1_000)
    done = label(kafka, topic_prefix, "t8", "fraud", "--fraud-type", "takeover")
    assert (done.exit_code, done.stdout) == (0, "t8 of account a1: fraud; no verdict before\n")
    (sent,) = labels(kafka, topic_prefix)
    assert begin <= sent.pop("label_time") <= time.time() * 1_000
    assert len(sent.pop("label_id")) == 38
    assert sent == {
        "schema_version": 1, "transaction_id": "t8", "account_id": "a1", "label": "fraud",
        "source": "analyst", "fraud_type": "takeover",
    }  # fmt: skip
    t8 = int(transaction_keys(["a1"], ["t8"])[0])
    assert fraud_on_topic(settings) == {t8: "takeover"}

    # The one that was approved has a score only.
    assert "t9 of account a2: disputed" in label(kafka, topic_prefix, "t9", "disputed").stdout

    time.sleep(0.01)
    done = label(kafka, topic_prefix, "t8", "legitimate", "--source", "customer")
    assert done.stdout.startswith("t8 of account a1: legitimate; before: fraud, known since 20")
    assert fraud_on_topic(settings) == {}

    done = label(kafka, topic_prefix, "t8", "fraud", "--time", "2025-01-02", "--json")
    told = json.loads(done.stdout)
    assert told["label"]["label_time"] == 1_735_776_000_000 and not told["counts"]
    assert (told["before"]["label"], told["before"]["source"]) == ("legitimate", "customer")
    done = label(kafka, topic_prefix, "t8", "fraud", "--time", "2025-01-02")
    assert "fraud is sent, but a newer verdict counts: legitimate, known since" in done.stdout
    assert fraud_on_topic(settings) == {}


def test_what_is_no_verdict_on_one_known_payment_is_refused(kafka: str, topic_prefix: str) -> None:
    records.settings(kafka, topic_prefix)
    ahead = int(time.time() * 1_000) + 3_600_000
    odd = 'é "7\\'
    records.put(
        kafka,
        f"{topic_prefix}scores",
        [
            records.score(8), records.score(8, account_id="b8"), records.score(9, event_time=ahead),
            records.score(7, transaction_id=odd),
        ],
    )  # fmt: skip
    for words, code, told in (
        (["t80", "fraud"], 1, "no alert and no score of a transaction t80."),
        (["\udcff", "fraud"], 1, "no alert and no score of a transaction"),  # no UTF-8
        (["t8", "fraud"], 2, "2 accounts have a transaction t8. Say which with --account"),
        (["t8", "fraud", "--account", "nobody"], 1, "a transaction t8 of that account"),
        (["t9", "fraud", "--from", "latest"], 1, "t9 in what --from latest reads. Look further"),
        (["t8", "fine"], 2, "fraud, legitimate, disputed"),
        (["t8", "legitimate", "--fraud-type", "mule"], 2, "only of a fraud"),
        (["t8", "fraud", "--account", "b8", "--time", "2024-12-31"], 2, "later than --time"),
        (["t8", "fraud", "--account", "b8", "--source", "4111111111111111"], 2, "card number"),
    ):
        done = label(kafka, topic_prefix, *words)
        shown = done.output if done.exception is None else f"{done.output}{done.exception}"
        wrong_use = getattr(done.exception, "wrong_use", None)
        assert (done.exit_code if wrong_use is None else 1 + wrong_use) == code, shown
        assert told in shown and "4111" not in shown
    assert labels(kafka, topic_prefix) == []

    assert label(kafka, topic_prefix, "t8", "fraud", "--account", "b8").exit_code == 0
    # Of the same id, and another payment.
    other = label(kafka, topic_prefix, "t8", "disputed", "--account", "a1")
    assert "disputed; no verdict before" in other.stdout
    assert label(kafka, topic_prefix, odd, "legitimate").exit_code == 0
    # A payment whose clock runs ahead: an older label would not count.
    assert label(kafka, topic_prefix, "t9", "fraud").exit_code == 0
    first, second, third, fourth = labels(kafka, topic_prefix)
    assert [each["account_id"] for each in (first, second)] == ["b8", "a1"]
    assert third["transaction_id"] == odd
    assert fourth["label_time"] == ahead

"""Publishing to the real broker: order, keys, pace, and what is told when Kafka refuses."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from streams import Publisher, Subscriber
from streams.cli import build
from streams.clients import publisher
from streams.clients.publish import Pace, chunks, count_rows, publish
from streams.clients.writer import write_table
from streams.dev.kafka import Broker
from streams.dev.simulate import Plan, simulate
from streams.errors import BrokerError, ConfigError, FormatError
from streams.settings import Settings
from tests.clients.records import everything, settings, transaction

NOISE = "".join(hashlib.sha512(b"%d" % n).hexdigest() for n in range(24))
"""3 kB that do not compress to a third."""
STREAM = simulate(Plan(events=4_000, accounts=100, fraud_rate=0.02))


@pytest.fixture
def place(kafka: str, topic_prefix: str) -> Settings:
    return settings(kafka, topic_prefix)


def narrow_topic(place: Settings) -> Settings:
    """With a topic of transactions whose broker refuses what the client thinks is not too large."""
    prefix = f"{place.kafka.topic_prefix}narrow-"
    place = place.model_copy(
        update={"kafka": place.kafka.model_copy(update={"topic_prefix": prefix})}
    )
    client = AdminClient({"bootstrap.servers": place.kafka.bootstrap})
    new = NewTopic(place.topic("transactions"), 1, 1, config={"max.message.bytes": "1000"})
    for future in client.create_topics([new], operation_timeout=60).values():
        future.result()
    return place


def run(*arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    done = CliRunner().invoke(build(), [*arguments], input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def flags(place: Settings) -> list[str]:
    return [
        "--set", f"kafka.bootstrap={place.kafka.bootstrap}",
        "--set", f"kafka.topic_prefix={place.kafka.topic_prefix}",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_file_arrives_whole_and_in_order_of_its_keys(
    suffix: str, place: Settings, tmp_path: Path
) -> None:
    path = tmp_path / f"s.{suffix}"
    write_table(path, STREAM.transactions)
    code, out, _ = run("publish", str(path), "--json", *flags(place))
    assert code == 0
    told = orjson.loads(out)
    assert (told["sent"], told["delivered"], told["failed"], told["errors"]) == (4000, 4000, 0, {})
    found = everything(place.kafka.bootstrap, place.topic("transactions"))
    sent = STREAM.transactions.select(["account_id", "transaction_id"]).to_pylist()
    orders: dict[str, list[str]] = {}
    for row in sent:
        orders.setdefault(row["account_id"], []).append(row["transaction_id"])
    arrived: dict[str, list[str]] = {}
    for message in found:
        document = orjson.loads(message.value() or b"")
        assert message.key() == document["account_id"].encode()
        arrived.setdefault(document["account_id"], []).append(document["transaction_id"])
    assert arrived == orders


def test_labels_find_their_topic_and_standard_input_is_json_lines(place: Settings) -> None:
    label = {"label_id": "l1", "transaction_id": "t1", "account_id": "a1", "label": "fraud",
             "label_time": 1_735_689_600_000}  # fmt: skip
    code, out, _ = run("publish", "-", *flags(place), stdin=orjson.dumps(label) + b"\n\n")
    assert (code, out.split()[:2]) == (0, ["1", "messages"])
    odd = b'{"account_id": "a1",  "transaction_id":"t9"}'
    code, _, _ = run("publish", "-", *flags(place), stdin=odd)
    assert code == 0
    labels = everything(place.kafka.bootstrap, place.topic("labels"))
    assert [orjson.loads(message.value() or b"") for message in labels] == [label]
    # A line is sent byte for byte.
    found = everything(place.kafka.bootstrap, place.topic("transactions"))
    assert [message.value() for message in found] == [odd]


def test_a_label_that_is_none_is_refused_as_nobody_would_answer_it(
    place: Settings, tmp_path: Path
) -> None:
    good = {"label_id": "l1", "transaction_id": "t1", "account_id": "a1", "label": "fraud",
            "label_time": 1_735_689_600_000}  # fmt: skip
    path = tmp_path / "labels.jsonl"
    for bad in ({"label": "maybe"}, {"label_time": None}):
        path.write_bytes(b"\n".join(map(orjson.dumps, (good, good, {**good, **bad}, good))))
        with Publisher(settings=place) as publisher, pytest.raises(FormatError, match="message 3"):
            publish(publisher, chunks(path, None), Pace())
    assert len(everything(place.kafka.bootstrap, place.topic("labels"))) == 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b'{"account_id":"a1"}\n{"account_id":', "line 2: not JSON"),
        (b'{"account_id":7}', "line 1, field account_id"),
        (b"\n[1]", "line 2: a list, not an object"),
        (b'{"account_id":"a1"}\n{"account_id":"a1","label_id":"l"}', "line 2: labels among"),
    ],
)
def test_bad_lines_are_named(lines: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines)
    with pytest.raises(FormatError, match=said):
        list(chunks(path, None))


def test_what_is_json_is_sent_and_what_is_none_stops_after_the_lines_before(
    place: Settings, tmp_path: Path
) -> None:
    rows = [
        b'{"account_id":"a1","event_time":1}', b'{"amount":1}', b"[]", b'{"account_id":7}',
        b'{"account_id":"a1","event_time":18446744073709551615}',
        b'{"account_id":"a1","event_time":-9223372036854775809}',
    ]  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([*rows, b"no json", rows[0]]))
    arguments = ["publish", str(path), "--speed", "1x", "--json", *flags(place)]
    done = CliRunner().invoke(build(), arguments)
    assert isinstance(done.exception, FormatError)
    assert "x.jsonl, line 7: not JSON" in str(done.exception)
    assert orjson.loads(done.stdout)["delivered"] == 6
    found = everything(place.kafka.bootstrap, place.topic("transactions"))
    assert sorted(m.value() or b"" for m in found) == sorted(rows)
    assert sorted(m.key() or b"" for m in found) == [b"", b"", b"", b"a1", b"a1", b"a1"]


def test_an_empty_cell_of_account_id_is_published_without_a_key(
    place: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    names = "schema_version,transaction_id,account_id,event_time,amount,currency"
    path.write_text(f"{names}\n1,t1,,1735689600000,5,EUR\n1,t2,a2,1735689600000,5,EUR\n")
    assert run("publish", str(path), *flags(place))[0] == 0
    found = everything(place.kafka.bootstrap, place.topic("transactions"))
    assert {m.key() for m in found} == {None, b"a2"}


def test_what_the_broker_refuses_is_counted_and_told(place: Settings, tmp_path: Path) -> None:
    place = narrow_topic(place)
    path = tmp_path / "s.jsonl"
    rows = [transaction(n) | {"ext": {"note": NOISE * (n == 1)}} for n in range(3)]
    path.write_bytes(orjson.dumps(rows[1]))
    code, out, err = run("publish", str(path), "--json", *flags(place))
    told = orjson.loads(out)
    assert code == 1
    assert (told["sent"], told["delivered"], told["failed"]) == (1, 0, 1)
    assert "not delivered: 1 x" in err
    assert "too large" in err
    publisher = Publisher(settings=place)
    for row in rows:
        publisher.send(row)
        publisher.flush()  # or the three are one batch, which is refused whole
    with pytest.raises(BrokerError, match="1 of 3 messages were not delivered"):
        publisher.close()
    found = everything(place.kafka.bootstrap, place.topic("transactions"), 1)
    assert [orjson.loads(m.value() or b"")["transaction_id"] for m in found] == ["t0", "t2"]


def test_a_message_larger_than_any_is_an_error_like_the_others(place: Settings) -> None:
    publisher = Publisher(settings=place)
    publisher.send(transaction(1) | {"ext": {"note": "x" * 2_000_000}})
    publisher.send(transaction(2))
    with pytest.raises(BrokerError, match="1 of 2"):
        publisher.close()


def test_a_full_queue_is_waited_for(place: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "QUEUE_MESSAGES", 100)
    topic = place.topic("transactions")
    with Publisher(settings=place) as out:
        out.send_encoded(topic, [b"k"] * 500, [b"a"] * 500)
        for _ in range(500):
            out.republish(topic, b"k", b"b", [("h", b"1")], 0)
    assert (out.sent, out.failed) == (1_000, 0)
    values = [message.value() for message in everything(place.kafka.bootstrap, topic)]
    assert (values.count(b"a"), values.count(b"b")) == (500, 500)


def test_send_fills_in_the_version_and_finds_the_topic(place: Settings) -> None:
    bare = {k: v for k, v in transaction(1).items() if k != "schema_version"}
    with Publisher(place.kafka.bootstrap, settings=place) as publisher:
        publisher.send(bare)
        publisher.send({"label_id": "l1", "account_id": "a1"})
    (message,) = everything(place.kafka.bootstrap, place.topic("transactions"))
    assert orjson.loads(message.value() or b"") == transaction(1)
    assert len(everything(place.kafka.bootstrap, place.topic("labels"))) == 1


def test_wrong_use_of_a_publisher_is_an_error(place: Settings) -> None:
    with Publisher(settings=place) as publisher, pytest.raises(FormatError, match="account_id"):
        publisher.send({})
    with pytest.raises(BrokerError, match="closed"):
        publisher.send(transaction(1))


def test_no_topic_no_broker(place: Settings) -> None:
    with pytest.raises(BrokerError, match="topics create"), Publisher(settings=place) as publisher:
        publisher.send(transaction(1), topic="transactoins")
    nobody = place.model_copy(
        update={"kafka": place.kafka.model_copy(update={"bootstrap": "127.0.0.1:9"})}
    )
    with pytest.raises(BrokerError, match="does not answer"):
        Publisher(settings=nobody)


def test_a_broker_that_is_gone_after_the_first_look(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = place.model_copy(
        update={"kafka": place.kafka.model_copy(update={"bootstrap": "127.0.0.1:9"})}
    )
    for client in ("publisher", "subscriber"):
        monkeypatch.setattr(f"streams.clients.{client}.check_kafka", lambda settings: None)
    monkeypatch.setattr("streams.clients.publisher.FLUSH_S", 0.3)
    monkeypatch.setattr("streams.clients.subscriber.TIMEOUT_S", 0.3)
    sender = Publisher(settings=gone)
    with pytest.raises(BrokerError, match="does not answer"):
        sender.send(transaction(1))
    with pytest.raises(BrokerError, match="does not answer"):
        Subscriber(settings=gone)


class Times(Publisher):
    """Notes when each message was sent, by a clock that only its waits move on."""

    def __init__(self, place: Settings) -> None:
        super().__init__(settings=place)
        self.now = 0.0
        self.moments: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        super().wait(0)

    def send_encoded(self, full_topic: str, keys, values) -> None:  # type: ignore[no-untyped-def]
        self.moments += [self.now] * len(keys)
        super().send_encoded(full_topic, keys, values)


def test_a_broker_that_is_silent_is_told_and_waited_for(
    place: Settings,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(publisher, "SILENT_S", 0.5)
    with Publisher(settings=place) as out:
        out.topic("transactions")
        os.kill(broker.child.pid, signal.SIGSTOP)
        try:
            out.send(transaction(0))
            deadline = time.monotonic() + 30
            while "confirmed nothing" not in caplog.text and time.monotonic() < deadline:
                out.wait(0.1)
        finally:
            os.kill(broker.child.pid, signal.SIGCONT)
    assert caplog.text.count("confirmed nothing") == 1 and "1 messages wait" in caplog.text
    assert out.delivered == 1


def test_a_pause_of_the_sender_is_no_silence_of_the_broker(
    place: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`publish` of labels looks at the file for seconds before the first of them is sent."""
    monkeypatch.setattr(publisher, "SILENT_S", 0.5)
    with Publisher(settings=place) as out:
        for n in range(2):
            time.sleep(0.6)
            out.send(transaction(n))
            assert out.flush() == 0
            out.wait(0)
    assert "confirmed nothing" not in caplog.text and out.delivered == 2


def written(path: Path, times: list[int]) -> Path:
    rows = [transaction(0) | {"event_time": moment} for moment in times]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def test_pace(place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def paced(times: list[int], pace: Pace) -> list[float]:
        path = written(tmp_path / "p.jsonl", times)
        with Times(place) as publisher, monkeypatch.context() as patched:
            patched.setattr("streams.clients.publish.time", publisher)
            publish(publisher, chunks(path, None), pace)
        assert len(publisher.moments) == len(times)
        return publisher.moments

    steady = paced([0] * 100, Pace(rate=200))
    assert steady == pytest.approx([n / 200 for n in range(100)])
    # The third comes late: event time does not go back, and neither does the pace.
    own = paced([1_735_689_600_000 + ms for ms in (0, 1_000, 500, 60_000)], Pace(speed=100))
    assert own == pytest.approx([0, 0.01, 0.01, 0.6])
    began = time.monotonic()
    with Publisher(settings=place) as publisher:
        publish(publisher, chunks(written(tmp_path / "p.jsonl", [0] * 100), None), Pace(rate=200))
    assert time.monotonic() - began > 0.45, "these waits are real"
    for wrong in ({"rate": 1.0, "speed": 1.0}, {"rate": -1.0}):
        with pytest.raises(ConfigError):
            Pace(**wrong)


def test_limit_and_count(place: Settings, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_table(path, STREAM.transactions)
    assert count_rows(path, None) == 4_000
    assert count_rows(None, None) is None
    code, out, _ = run("publish", str(path), "--limit", "7", "--json", *flags(place))
    assert (code, orjson.loads(out)["delivered"]) == (0, 7)


def test_wrong_use(place: Settings, tmp_path: Path) -> None:
    assert run("publish", "x.csv", "--speed", "fast", *flags(place))[0] == 2
    (tmp_path / "one.jsonl").write_bytes(orjson.dumps(transaction(1)))
    for topic in ("scores", "rules", "transactions.dlq", "mine"):
        code, _, err = run("publish", str(tmp_path / "one.jsonl"), "--topic", topic, *flags(place))
        assert (code, "transactions or labels" in err) == (2, True)
    for error, arguments in (
        (ConfigError, ["publish", str(tmp_path / "no.csv")]),
        (ConfigError, ["publish", "-", "--rate", "1", "--speed", "2x"]),
        (ConfigError, ["publish", "-", "--format", "csv"]),
        (FormatError, ["publish", str(tmp_path / "one.jsonl"), "--topic", "labels"]),
    ):
        with pytest.raises(error):
            run(*arguments, *flags(place))


def test_a_file_that_was_stopped_is_not_done(place: Settings, tmp_path: Path) -> None:
    """Else a script that marks the day as sent would lose the rest of it."""
    write_table(tmp_path / "s.parquet", STREAM.transactions)
    words = ["publish", str(tmp_path / "s.parquet"), "--rate", "20", "--json", *flags(place)]
    child = subprocess.Popen(
        [sys.executable, "-c", "from streams.cli import main; main()", *words],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with Subscriber("transactions", settings=place, start="earliest") as reader:
        assert next(reader.messages()).offset() == 0
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=180)
    told = orjson.loads(out)
    assert (child.returncode, told["stopped"]) == (130, True)
    assert 0 < told["delivered"] < 4_000


@pytest.mark.parametrize("sent_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_publisher_says_what_it_sent(
    place: Settings, sent_signal: signal.Signals
) -> None:
    """Who reads a pipe without an end is stopped by Ctrl-C, an init system, a closed terminal."""
    child = subprocess.Popen(
        [sys.executable, "-c", "from streams.cli import main; main()", "publish", "-", "--json",
         *flags(place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    child.stdin.write(b"".join(orjson.dumps(transaction(i)) + b"\n" for i in range(3)))
    child.stdin.flush()
    with Subscriber("transactions", settings=place, start="earliest") as reader:
        assert next(reader.messages()).offset() == 0
    child.send_signal(sent_signal)
    # The pipe stays open: `communicate` would close it and so end the program by itself.
    assert child.wait(180) == 0
    assert child.stdout is not None and child.stderr is not None
    told = orjson.loads(child.stdout.read())
    assert b"stopped; sending what is queued" in child.stderr.read()
    there = len(everything(place.kafka.bootstrap, place.topic("transactions")))
    assert told["sent"] == told["delivered"] == there > 0
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()

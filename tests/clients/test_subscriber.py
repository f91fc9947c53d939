"""Reading from the real broker: each record once, beginnings, ends, groups, lines, dead letters."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import redis
from pydantic import SecretStr
from rich.console import Console

from streams import Subscriber
from streams.clients import deadletters
from streams.clients.subscriber import Once, fixed, identity, start_time_ms
from streams.clients.view import Lines
from streams.errors import BrokerError, ConfigError, StoreError
from streams.settings import Settings
from streams.store.redis import RedisStore
from tests.clients.records import VERSIONS, alert, everything, put, score, settings, transaction
from tests.clients.test_publisher import flags, run


@pytest.fixture
def place(kafka: str, topic_prefix: str) -> Settings:
    return settings(kafka, topic_prefix)


def test_repeats_are_dropped(place: Settings) -> None:
    again = alert(1, produced_time=9, source={"topic": "t", "partition": 0, "offset": 7})
    other = score(1, versions=VERSIONS | {"model": "m2"})
    put(place.kafka.bootstrap, place.topic("alerts"), [alert(1), alert(2), again, None, alert(3)])
    put(place.kafka.bootstrap, place.topic("scores"), [score(1), score(1), other], partition=1)
    with Subscriber(settings=place, start="earliest", follow=False) as reader:
        assert [record["transaction_id"] for record in reader] == ["t1", "t2", "t3"]
    with Subscriber("scores", settings=place, start="earliest", follow=False) as reader:
        assert [record["versions"]["model"] for record in reader] == ["m1", "m2"]


def test_what_is_remembered_is_bounded() -> None:
    same, other = {"alert_id": "x", "account_id": "a1"}, {"alert_id": "x", "account_id": "a2"}
    assert identity(same) == identity(dict(same)) != identity(other)
    once = Once(limit=3)
    assert [once.first(b"%d" % n) for n in (1, 2, 3, 1, 4, 1)] == [True] * 3 + [False, True, True]
    assert identity(alert(1)) == identity(alert(1, produced_time=3))
    assert identity(score(1)) != identity(score(1, versions={"model": "m2"}))


def test_beginnings_and_ends(place: Settings) -> None:
    topic = place.topic("alerts")
    put(place.kafka.bootstrap, topic, [alert(1)])
    time.sleep(0.3)
    between = datetime.now(UTC)
    time.sleep(0.1)
    put(place.kafka.bootstrap, topic, [alert(2)], partition=1)
    found = {}
    for start in ("earliest", "1h", between.isoformat(), "latest"):
        with Subscriber(settings=place, start=start, follow=False) as reader:
            found[start] = sorted(record["transaction_id"] for record in reader)
    assert list(found.values()) == [["t1", "t2"], ["t1", "t2"], ["t2"], []]
    with Subscriber(settings=place, start="latest") as reader:
        records = iter(reader)
        put(place.kafka.bootstrap, topic, [alert(3)])
        assert next(records)["transaction_id"] == "t3"


def test_reading_ends_where_it_ended_when_it_began(place: Settings) -> None:
    topic = place.topic("alerts")
    put(place.kafka.bootstrap, topic, [alert(n) for n in range(5)])
    with Subscriber(settings=place, start="earliest", follow=False) as reader:
        records = iter(reader)
        first = next(records)
        put(place.kafka.bootstrap, topic, [alert(n) for n in range(5, 9)])
        assert [first, *records][-1]["transaction_id"] == "t4"


def test_a_group_keeps_its_place(place: Settings, topic_prefix: str) -> None:
    put(place.kafka.bootstrap, place.topic("alerts"), [alert(n) for n in range(4)])
    for expected in (["t0", "t1"], ["t1", "t2", "t3"]):
        with Subscriber(settings=place, start="earliest", group=topic_prefix) as reader:
            records = iter(reader)
            # t1 was handed out but the next one was not asked for: it comes again.
            assert [next(records)["transaction_id"] for _ in expected] == expected
    for wrong in ({"start": "2h"}, {"follow": False}):
        with pytest.raises(ConfigError):
            Subscriber(settings=place, group="g", **wrong)  # type: ignore[arg-type]


UNASKED = ("schema_version", "produced_time", "threshold", "risk_level")
"""Fields that no reader here relies on."""
DEEP = b'{"a":' * 400 + b"1" + b"}" * 400


def no_records(good: dict[str, Any]) -> list[Any]:
    """What is no score or alert, though much of it looks like this one."""
    asked = [name for name in good if name not in UNASKED]
    odd = [{**good, name: wrong} for name in asked for wrong in ([1], {}, True) if name != "late"]
    odd += [{name: good[name] for name in good if name != gone} for gone in asked]
    odd += [{**good, "event_time": 10**18}, {**good, "late": 1}]
    return [
        b"{", b"[1]", b"\xff", b"", b"[" * 5_000, b"null", {"hello": 1}, *odd,
        orjson.dumps(good).replace(b'"versions":{', b'"versions":{"x":' + DEEP + b","),
        orjson.dumps(good)[:-1] + b',"more":' + DEEP + b"}",
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "good"), [("alerts", alert(1)), ("scores", score(1))])
def test_what_is_no_record_is_passed_over_and_told(
    place: Settings, caplog: pytest.LogCaptureFixture, kind: str, good: dict[str, Any]
) -> None:
    hostile = no_records(good)
    put(place.kafka.bootstrap, place.topic(kind), [*hostile, good])
    with Subscriber(kind, settings=place, start="earliest", follow=False) as reader:
        assert list(reader) == [good]
    told = [f"offset {n}:" in line for n, line in enumerate(caplog.messages)]
    assert told == [True] * len(hostile)


def test_no_such_topic(place: Settings) -> None:
    with pytest.raises(BrokerError, match="topics create"):
        Subscriber("nothing", settings=place)


def test_start_times() -> None:
    assert start_time_ms("90s", 100_000) == 10_000
    assert start_time_ms("2d", 0) == -172_800_000
    assert start_time_ms("2025-01-01T00:00:00", 0) == 1_735_689_600_000
    assert start_time_ms("2025-01-01T01:00:00+01:00", 0) == 1_735_689_600_000
    assert fixed("2025-01-01T01:00:00+01:00") == "2025-01-01T00:00:00+00:00"
    assert fixed("9999-12-31T23:59:59-14:00") == "2100-01-01T00:00:00+00:00"
    with pytest.raises(ConfigError):
        start_time_ms("tomorrow", 0)


def test_lines_for_people() -> None:
    out = io.StringIO()
    lines = Lines("alerts", Console(file=out, width=300, highlight=False, soft_wrap=True))
    lines.show(alert(800))
    lines.show(alert(300, "review", late=True, rules=[], score=None))
    heading, first, second = out.getvalue().splitlines()
    names = ["account", "transaction", "amount", "score", "decision", "reasons"]
    assert heading.split() == ["time", "(UTC)", *names]
    assert first.split(maxsplit=7) == [
        "2025-01-01", "00:00:00", "a2", "t800", "EUR", "1,234.56", "0.8000",
        "block     4 payments in 60 s; usual: 1 in 2 days | rule big",
    ]  # fmt: skip
    assert "review" in second
    assert second.endswith("1 in 2 days (late)")
    assert heading.index("reasons") == first.index("4 payments")


def test_reasons_are_below_an_alert_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    how = {"width": 80, "highlight": False, "soft_wrap": True, "color_system": None}
    lines = Lines("alerts", Console(file=out, force_terminal=True, **how))
    long = "the model weighs the order of the account's last payments: EUR 1.00 to EUR 2.00, more"
    lines.show(alert(800, reasons=[{"code": "x", "text": long}]))
    lines.show(alert(300, "review", late=True, rules=[], account_id="a2"))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "time (UTC)          account      transaction    amount         score  decision",
        "2025-01-01 00:00:00 a2           t800           EUR 1,234.56   0.8000 block",
        "  the model weighs the order of the account's last payments: EUR 1.00 to EUR",
        "      2.00, more",
        "  rule big",
        "2025-01-01 00:00:00 a2           t300           EUR 1,234.56   0.3000 review   (late)",
        "  4 payments in 60 s; usual: 1 in 2 days",
    ]


def test_what_is_shown_leaves_the_terminal_alone() -> None:
    out = io.StringIO()
    lines = Lines("alerts", Console(file=out, width=300, highlight=False, soft_wrap=True))
    reason = {"code": "x", "text": "one\ntwo\u202e"}
    lines.show(alert(800, account_id="\x1b[2Ja2", reasons=[reason], rules=[]))
    _, line = out.getvalue().splitlines()
    assert "\ufffd[2Ja2 " in line and line.endswith("one\ufffdtwo\ufffd")


def test_the_verbs_show_and_end(place: Settings) -> None:
    put(place.kafka.bootstrap, place.topic("alerts"), [alert(1), alert(1), alert(2)])
    put(place.kafka.bootstrap, place.topic("scores"), [score(1)])
    code, out, err = run("alerts", *flags(place))
    assert (code, out.count("EUR 1,234.56"), err.strip()) == (0, 2, "2 alerts")
    code, out, _ = run("alerts", "--json", "--limit", "1", *flags(place))
    assert [orjson.loads(line) for line in out.splitlines()] == [alert(1)]
    code, out, _ = run("scores", *flags(place))
    assert code == 0
    assert "approve" in out
    code, out, _ = run("alerts", "--follow", "--from", "earliest", "--limit", "2", *flags(place))
    assert (code, out.count("block")) == (0, 2)


def test_the_verbs_go_on_over_what_is_no_record(place: Settings) -> None:
    for kind, good in (("alerts", alert(1)), ("scores", score(1))):
        put(place.kafka.bootstrap, place.topic(kind), [*no_records(good), good])
        for flag in ([], ["--json"]):
            code, out, err = run(kind, *flag, *flags(place))
            assert (code, err.splitlines()[-1]) == (0, f"1 {kind}")
            assert out.count("t1") == 1


def headers(reason: str, offset: int, topic: str) -> list[tuple[str, str | bytes | None]]:
    return [
        ("reason", reason.encode()), ("detail", b"currency"), ("topic", topic.encode()),
        ("partition", b"1"), ("offset", b"%d" % offset), ("schema_version", b"1"),
        ("time", b"1735689600000"),
    ]  # fmt: skip


def test_dead_letters_are_listed_and_sent_again(place: Settings, redis_url: str) -> None:
    send = ["dlq", "republish", *flags(place), "--set", f"redis.url={redis_url}"]
    kafka, source = place.kafka.bootstrap, place.topic("transactions")
    dead = place.topic("transactions.dlq")
    raw = orjson.dumps(transaction(1, "a9"))
    put(kafka, dead, [raw], headers=headers("bad_currency", 5, source), key=b"a9")
    put(kafka, dead, [raw], headers=headers("bad_currency", 5, source), key=b"a9")
    put(kafka, dead, [b"\xff\x00"], headers=headers("bad_json", 6, source))
    put(kafka, dead, [b""], headers=headers("pan_found", 7, source))
    # Whoever may write dead letters could name any topic, and numbers that are none.
    rules = place.topic("rules")
    odd = [("topic", rules), ("partition", "x"), ("offset", "9" * 99), ("detail", "\x1b[2J\n")]
    put(kafka, dead, [b"{}"], headers=odd)
    code, out, err = run("dlq", "list", *flags(place))
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()] == [
        "bad_currency", "bad_json", "pan_found", f"{rules}/-1/-1",
    ]  # fmt: skip
    assert "\x1b" not in out and "\ufffd[2J" in out
    assert err.startswith("4 dead letters")
    _, out, _ = run("dlq", "list", "--json", "--reason", "bad_currency", *flags(place))
    (told,) = map(orjson.loads, out.splitlines())
    assert told["source"] == {"topic": source, "partition": 1, "offset": 5}
    assert orjson.loads(told["value"]) == transaction(1, "a9")
    assert run(*send)[0] == 2
    assert run("dlq", "list", "--reason", "ugly", *flags(place))[0] == 2
    _, out, _ = run(*send, "--all", "--dry-run", "--json")
    assert orjson.loads(out) == {"sendable": 2, "blanked": 2, "erased": 0}
    assert everything(kafka, source) == []
    _, out, _ = run(*send, "--all", "--json")
    assert orjson.loads(out) == {"sent": 2, "blanked": 2, "erased": 0}
    assert everything(kafka, rules, 1) == []
    found = {message.value(): message for message in everything(kafka, source)}
    assert found.keys() == {raw, b"\xff\x00"}
    assert found[raw].key() == b"a9"
    # Where the account's state is, whatever rule its publisher chooses partitions by.
    assert {message.partition() for message in found.values()} == {1}
    assert found[raw].headers() == [("republished_from", f"{source}/1/5".encode())]
    assert len(list(deadletters.read(place, "earliest", ["bad_json"]))) == 1


def test_an_original_is_sent_once(place: Settings, redis_url: str) -> None:
    """A letter that is still bad comes back as another letter, and none of them goes out again."""
    send = ["dlq", "republish", "--all", "--json", *flags(place)]
    send += ["--set", f"redis.url={redis_url}"]
    kafka, source = place.kafka.bootstrap, place.topic("transactions")
    dead = place.topic("transactions.dlq")
    bad, good = (orjson.dumps(transaction(n, "a")) for n in (1, 2))
    put(kafka, source, [bad, good], partition=1, key=b"a")
    put(kafka, dead, [bad], headers=headers("bad_currency", 0, source), key=b"a")
    put(kafka, dead, [good], headers=headers("quarantined", 1, source), key=b"a")
    # Another message that claims to be the second one is not taken for it.
    claims = [("republished_from", f"{source}/1/1".encode())]
    put(kafka, source, [b"{}"], partition=1, key=b"a", headers=[*claims])
    assert orjson.loads(run(*send)[1]) == {"sent": 2, "blanked": 0, "erased": 0}
    found = [message for message in everything(kafka, source) if message.value() == bad]
    assert [message.headers() for message in found] == [
        None, [("republished_from", f"{source}/1/0".encode())],
    ]  # fmt: skip
    back = [*(found[1].headers() or []), *headers("bad_currency", found[1].offset() or 0, source)]
    put(kafka, dead, [bad], headers=back, key=b"a")
    for _ in range(3):
        code, out, err = run(*send)
        told = {"sent": 0, "blanked": 0, "erased": 0, "sent_before": 2}
        assert (code, orjson.loads(out)) == (0, told)
        assert "2 already sent before" in err
    assert len(everything(kafka, source)) == 5
    assert orjson.loads(run(*send, "--again", "--dry-run")[1])["sendable"] == 2
    # On purpose: once, and again under the first place, not that of the letter that came back.
    code, out, _ = run(*send, "--again", "--reason", "bad_currency")
    assert code == 2
    send.remove("--all")
    assert orjson.loads(run(*send, "--again", "--reason", "bad_currency")[1])["sent"] == 1
    last = everything(kafka, source)[-1]
    assert (last.partition(), last.headers()) == (1, found[1].headers())
    assert orjson.loads(run(*send, "--reason", "bad_currency")[1])["sent_before"] == 1


def test_what_an_older_version_sent_again_names_the_letter_before(
    place: Settings, redis_url: str
) -> None:
    kafka, source = place.kafka.bootstrap, place.topic("transactions")
    dead = place.topic("transactions.dlq")
    raw = orjson.dumps(transaction(1, "a"))
    put(kafka, source, [raw], partition=1, key=b"a")
    put(kafka, dead, [raw], headers=headers("bad_currency", 0, source), key=b"a")
    for offset in (1, 2):
        link = [("republished_from", f"{source}/1/{offset - 1}".encode())]
        put(kafka, source, [raw], partition=1, key=b"a", headers=[*link])
        put(kafka, dead, [raw], headers=[*link, *headers("bad_currency", offset, source)], key=b"a")
    found = deadletters.republish(with_redis(place, redis_url), "earliest", [])
    assert (found.sent, found.before) == (0, 1)
    found = deadletters.republish(with_redis(place, redis_url), "earliest", [], again=True)
    assert found.sent == 1
    last = everything(kafka, source)[-1].headers()
    assert last == [("republished_from", f"{source}/1/0".encode())]


def with_redis(place: Settings, url: str) -> Settings:
    return place.model_copy(
        update={"redis": place.redis.model_copy(update={"url": SecretStr(url)})}
    )


def test_an_erased_account_does_not_come_back_by_its_dead_letters(
    place: Settings, redis_url: str
) -> None:
    """Its letter from before the erasure stays; one from after it is of a new account."""
    kafka, source = place.kafka.bootstrap, place.topic("transactions")
    dead = place.topic("transactions.dlq")
    raw = [orjson.dumps(transaction(number, account)) for number, account in enumerate("aaab")]
    for number, offset in enumerate((5, 20, 21)):
        put(kafka, dead, [raw[number]], headers=headers("quarantined", offset, source), key=b"a")
    put(kafka, dead, [raw[3]], headers=headers("quarantined", 6, source), key=b"b")
    with redis.Redis.from_url(redis_url) as client:
        RedisStore(client).forget(1, "a", 21, lambda entry: entry)
    send = ["dlq", "republish", "--all", "--json", *flags(place)]
    on = ["--set", f"redis.url={redis_url}"]
    told = orjson.loads(run(*send, *on, "--dry-run")[1])
    assert told == {"sendable": 2, "blanked": 0, "erased": 2}
    assert orjson.loads(run(*send, *on)[1]) == {"sent": 2, "blanked": 0, "erased": 2}
    assert {message.value() for message in everything(kafka, source)} == {raw[2], raw[3]}
    with pytest.raises(StoreError):
        run(*send, "--set", "redis.url=redis://127.0.0.1:1/0")
    assert len(everything(kafka, source)) == 2, "who cannot ask sends nothing"

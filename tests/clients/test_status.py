"""Status: what the broker and the store say, without asking a worker."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from pydantic import SecretStr

from streams.clients.publisher import Publisher
from streams.clients.status import PartitionStatus, Status, _notes, status, text
from streams.connect import check_redis, confluent_config
from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import BrokerError, StoreFull, StoreUnready
from streams.settings import Settings, load
from streams.store import Commit, Identity, generations
from streams.store.redis import RedisStore
from streams.topics import create
from tests.clients.test_publisher import run


@pytest.fixture
def settings(kafka: str, redis_url: str, topic_prefix: str) -> Settings:
    return load(
        flags=[
            f"kafka.bootstrap={kafka}",
            f"kafka.topic_prefix={topic_prefix}",
            f"kafka.group={topic_prefix}",
            f"redis.url={redis_url}",
            "topics.partitions=2",
        ]
    )


def publish(settings: Settings, count: int) -> None:
    with Publisher(settings=settings) as publisher:
        for number in range(count):
            publisher.send(
                {
                    "schema_version": 1,
                    "transaction_id": f"t{number}",
                    "account_id": "a",
                    "event_time": 1_700_000_000_000 + number,
                    "amount": 5,
                    "currency": "EUR",
                }
            )


def test_no_topic_is_an_error_that_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="topics create"):
        status(settings)


def test_a_topic_that_is_gone_is_named(settings: Settings) -> None:
    create(settings)
    assert status(settings).problems == []
    gone = [settings.topic(name) for name in ("transactions.dlq", "scores")]
    admin = AdminClient(confluent_config(settings))
    for done in admin.delete_topics(gone).values():
        done.result(120)
    flags = [
        "--set", f"kafka.bootstrap={settings.kafka.bootstrap}",
        "--set", f"kafka.topic_prefix={settings.kafka.topic_prefix}",
        "--set", f"redis.url={settings.redis.url.get_secret_value()}",
    ]  # fmt: skip
    code, out, _ = run("status", "--json", *flags)
    (problem,) = orjson.loads(out)["problems"]
    assert (code, orjson.loads(out)["healthy"]) == (1, False)
    assert f"without {gone[1]}, {gone[0]}, which Kafka does not have" in problem
    assert "fraudstream topics create" in problem
    code, out, _ = run("status", *flags)
    assert (code, f"problem: {problem}" in out) == (1, True)
    create(settings)
    assert status(settings).problems == []


def test_lag_and_outbox_are_those_of_log_and_store(settings: Settings, redis_url: str) -> None:
    create(settings)
    publish(settings, 7)
    before = status(settings)
    assert before.lag == 7
    assert before.problems == []
    assert before.notes == ["nothing committed yet, and 7 transactions wait: is a worker running?"]
    busy = next(each.partition for each in before.partitions if each.end)
    store = RedisStore(redis.Redis.from_url(redis_url))
    for partition in range(2):
        claim = store.acquire(partition, Identity("topic", 2, "stub@1"))
        if partition == busy:
            store.commit(claim, Commit(None, 4, entry=b"packed"))
    after = status(settings)
    assert (after.lag, after.outbox) == (3, 1)
    assert after.partitions[busy].applied == 4
    assert after.partitions[busy].model == "stub@1"
    assert (after.notes, after.problems) == ([], [])
    assert after.as_json()["healthy"] is True
    assert "lag 3, outbox 1" in text(after)
    store.acquire(1 - busy, Identity("topic", 2, "stub@2"))
    (problem,) = status(settings).problems
    models = {busy: "stub@1 in", 1 - busy: "stub@2 in"}
    told = "; ".join(f"{models[number]} {number}" for number in range(2))
    assert f"several models at work ({told}): give all workers the same" in problem


def test_what_its_sender_aborted_is_no_lag(settings: Settings) -> None:
    """It stayed lag until the next message came: no worker ever gets to see it."""
    create(settings)
    topic = settings.topic("transactions")
    sender = Producer(confluent_config(settings, {"transactional.id": topic}))
    sender.init_transactions()
    sender.begin_transaction()
    for partition in range(2):
        sender.produce(topic, b"{}", b"a", partition)
    sender.flush()
    sender.abort_transaction()
    found = status(settings)
    assert [(each.end, each.lag) for each in found.partitions] == [(2, 0), (2, 0)]
    assert (found.lag, found.notes, found.problems) == (0, ["nothing committed yet"], [])
    publish(settings, 1)
    assert sorted(each.lag > 0 for each in status(settings).partitions) == [False, True]


def test_a_worker_that_goes_on_meanwhile_is_not_ahead_of_the_log(
    settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is looked at before the log, else a rebuild would be asked for under load."""
    create(settings)
    publish(settings, 3)
    busy = next(each.partition for each in status(settings).partitions if each.end)
    store = RedisStore(redis.Redis.from_url(redis_url))
    claim = store.acquire(busy, Identity("topic", 2, "stub@1"))
    store.commit(claim, Commit(None, 3))
    read = generations.read

    def read_while_a_message_is_scored(*given: Any) -> Any:
        publish(settings, 1)
        store.commit(claim, Commit(3, 4))
        return read(*given)

    monkeypatch.setattr(generations, "read", read_while_a_message_is_scored)
    found = status(settings)
    assert (found.lag, found.problems) == (0, [])
    assert found.partitions[busy].applied == 4


def test_copies_behind_are_noted() -> None:
    layout = {0: SimpleNamespace(replicas=[1, 2, 3], isrs=[1, 2, 3])}
    layout |= {1: SimpleNamespace(replicas=[1, 2, 3], isrs=[2])}
    behind: Any = layout
    partition = PartitionStatus(0, 1, 1, 0, 0, 1, 0, "", "")
    (note,) = _notes([partition], behind)
    assert "of 1 partition (1)" in note
    del behind[1]
    assert _notes([partition], behind) == []


def test_a_redis_that_takes_no_write_is_a_problem(settings: Settings, redis_url: str) -> None:
    create(settings)
    with redis.Redis.from_url(redis_url) as client:
        try:
            client.config_set("maxmemory", "1mb")
            assert "at maxmemory (1.0 MiB)" in status(settings).problems[0]
            client.config_set("maxmemory", "0")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            found = status(settings)
        finally:
            client.config_set("maxmemory", "0")
            client.execute_command("REPLICAOF", "NO", "ONE")
    assert re.search(r"this Redis is a replica.*Promote it", found.problems[0])
    assert "problem: this Redis" in text(found)


def test_a_redis_that_cannot_write_its_file_is_asked_all_the_same(
    settings: Settings, tmp_path: Path
) -> None:
    create(settings)
    server = redis_server.start(tmp_path, extra={"save": "3600 1"}, die_with_parent=True)
    in_its_way = tmp_path / "dump.rdb" / "something"
    try:
        with redis.Redis.from_url(server.url) as client:
            claim = RedisStore(client).acquire(0, Identity("topic", 2, "stub@1"))
            publish(settings, 3)
            RedisStore(client).commit(claim, Commit(None, 1))
            in_its_way.mkdir(parents=True)
            _save(client, "err")
            asked = settings.redis.model_copy(update={"url": SecretStr(server.url)})
            found = status(settings.model_copy(update={"redis": asked}))
            shutil.rmtree(in_its_way.parent)
            with pytest.raises(StoreFull, match="redis-cli BGSAVE"):
                RedisStore(client).commit(claim, Commit(1, 2))
            with pytest.raises(StoreUnready, match="redis-cli BGSAVE"):
                check_redis(settings, client)
            _save(client, "ok")  # which is what they say
            RedisStore(client).commit(claim, Commit(1, 2))
    finally:
        process.stop(server.child, 0)
    assert found.partitions[0].applied == 1 and found.lag > 0
    told = r"Redis cannot write its file.*MISCONF.*disk is full.*`redis-cli BGSAVE`.*"
    assert re.fullmatch(told, found.problems[0])


def _save(client: redis.Redis, outcome: str) -> None:
    """Make a snapshot, which ends as told."""
    client.bgsave()
    deadline = time.monotonic() + 30
    while client.info("persistence")["rdb_last_bgsave_status"] != outcome:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("forbidden", ["hlen", "hgetall", "info"])
def test_a_user_without_rights_gets_no_traceback(
    settings: Settings, redis_url: str, forbidden: str
) -> None:
    create(settings)
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser(
            "limited", enabled=True, nopass=True, keys=["*"], commands=["+@all", f"-{forbidden}"]
        )
    server = settings.redis.model_copy(update={"username": "limited", "password": SecretStr("any")})
    with pytest.raises(StoreUnready, match=rf"'{forbidden}'.*users\.acl"):
        status(settings.model_copy(update={"redis": server}))


def test_workers_that_decide_by_different_settings_are_told(
    settings: Settings, redis_url: str
) -> None:
    create(settings)
    store = RedisStore(redis.Redis.from_url(redis_url))
    store.acquire(0, Identity("topic", 2, "stub@1", "review 0.2, block 0.9, rules none"))
    # A rebuild claims, too, and decides nothing.
    store.acquire(1, Identity("topic", 2))
    assert status(settings).problems == []
    store.acquire(1, Identity("topic", 2, "stub@1", "review 0.3, block 0.9, rules none"))
    (problem,) = status(settings).problems
    assert problem == (
        "partitions are decided by different settings (review 0.2, block 0.9, rules none in 0; "
        "review 0.3, block 0.9, rules none in 1): give all workers the same"
    )
    store.acquire(0, Identity("topic", 2, "stub@1", "review 0.3, block 0.9, rules none"))
    assert status(settings).problems == []


def test_a_person_reads_every_count_alike() -> None:
    parts = [
        PartitionStatus(0, 1_234_567, 1_234_000, 567, 2, 1, 0, "m@1", "review 0.2"),
        PartitionStatus(1, 0, None, 0, 0, 0, 0, "", ""),
    ]
    shown = text(Status("transactions", 567, 2, 0, False, 0, parts, [], ["look here"])).splitlines()
    assert shown[2].split() == ["0", "1,234,567", "1,234,000", "567", "2", "1", "m@1"]
    assert shown[3].split() == ["1", "0", "-", "0", "0", "0"]
    assert shown[-1] == "problem: look here"


def test_a_state_beyond_the_log_is_named(settings: Settings, redis_url: str) -> None:
    create(settings)
    publish(settings, 3)
    store = RedisStore(redis.Redis.from_url(redis_url))
    store.commit(store.acquire(0, Identity("topic", 2)), Commit(None, 50))
    assert any("fraudstream rebuild" in problem for problem in status(settings).problems)


def test_a_raised_partition_count_is_a_problem(settings: Settings, redis_url: str) -> None:
    create(settings)
    RedisStore(redis.Redis.from_url(redis_url)).acquire(0, Identity("topic", 2))
    assert status(settings).problems == []
    topic = settings.topic("transactions")
    admin = AdminClient(confluent_config(settings))
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(120)
    until = time.monotonic() + 120
    while len(status(settings).partitions) < 3 and time.monotonic() < until:
        time.sleep(0.1)
    (problem,) = status(settings).problems
    assert "has 3 partitions, and the state was made for 2" in problem
    assert "fraudstream rebuild" in problem
    flags = [
        "--set", f"kafka.bootstrap={settings.kafka.bootstrap}",
        "--set", f"kafka.topic_prefix={settings.kafka.topic_prefix}",
        "--set", f"redis.url={redis_url}",
    ]  # fmt: skip
    code, out, _ = run("status", *flags)
    assert (code, f"problem: {problem}" in out) == (1, True)


def test_a_fresh_service_is_healthy_and_an_emptied_one_is_not(
    settings: Settings, redis_url: str
) -> None:
    create(settings)
    fresh = status(settings)
    assert (fresh.notes, fresh.problems) == (["nothing committed yet"], [])
    said = fresh.as_json()
    assert (said["committed"], said["healthy"]) == (False, True)
    assert text(fresh).endswith("nothing committed yet")
    publish(settings, 3)
    topic = settings.topic("transactions")
    end = next(each for each in status(settings).partitions if each.end)
    consumer = Consumer(confluent_config(settings, {"group.id": settings.kafka.group}))
    place = TopicPartition(topic, end.partition, end.end)
    consumer.commit(offsets=[place], asynchronous=False)
    consumer.close()
    lost = status(settings)
    assert len(lost.problems) == 1
    assert f"partition {end.partition}: Redis has no state" in lost.problems[0]
    assert lost.notes == [], "a worker that is started now would not help"
    assert "fraudstream rebuild" in lost.problems[0]

"""The rights of infra/kafka/acls.sh on a real broker: enough for each part, and no more."""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from streams import connect
from streams.clients.audit import audit
from streams.clients.forget import forget
from streams.clients.label import label
from streams.clients.publisher import Publisher
from streams.clients.status import status
from streams.clients.subscriber import Subscriber
from streams.connect import confluent_config
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.errors import BrokerError
from streams.live.outbox import Outbox
from streams.live.risk_log import RiskLog
from streams.live.risk_store import RiskStore
from streams.live.rule_source import RuleSource
from streams.offline.merged import MergedLog
from streams.offline.record import Recorder, Request
from streams.offline.recording import Recording
from streams.risk_pace import Pace
from streams.rulebook import RuleBook
from streams.schema import TOPICS
from streams.settings import Settings, load
from streams.topics import create
from tests.certificates import Certificates
from tests.conftest import PASSWORD, PRINCIPALS
from tests.live.test_outbox import render
from tests.live.workers import payments, scored, team

PREFIX = "acl-"
SCRIPT = Path(__file__).parents[1] / "infra" / "kafka" / "acls.sh"
NAMES = tuple(spec.name for spec in TOPICS)

WRITES = {
    "fraudstream": {"scores", "alerts", "transactions.dlq"},
    "publisher": {"transactions", "labels"},
    "analyst": {"labels"},
    "operator": {"transactions", "rules"},
}
READS = {
    "fraudstream": {"transactions", "labels", "rules"},
    "subscriber": {"scores", "alerts"},
    "analyst": {"scores", "alerts", "labels"},
    "operator": set(NAMES),
}

As = Callable[..., Settings]
"""The settings of a principal."""


def told(directory: Path) -> Iterator[argparse.Namespace]:
    """What the script asks of Kafka's own tool, call by call."""
    tool, calls = directory / "kafka-acls", directory / "calls"
    tool.write_text(f"#!/bin/sh\nprintf '%s\\t' \"$@\" >> {calls}; echo >> {calls}\n")
    tool.chmod(0o700)
    given = {"KAFKA_ACLS": str(tool), "BOOTSTRAP": "b", "ADMIN": "a"}
    names = {"PREFIX": PREFIX, "GROUP": f"{PREFIX}group"}
    path = {"PATH": "/usr/bin:/bin"}
    subprocess.run([str(SCRIPT)], env=given | names | path, check=True)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--bootstrap-server", "--command-config", "--allow-principal"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--topic", action="append", default=[])
    parser.add_argument("--group", action="append", default=[])
    parser.add_argument("--resource-pattern-type", default="literal")
    for line in calls.read_text().splitlines():
        yield parser.parse_args(line.rstrip("\t").split("\t"))


def bindings(call: argparse.Namespace) -> Iterator[AclBinding]:
    operations = {each.name.replace("_", "").lower(): each for each in AclOperation}
    pattern = ResourcePatternType[call.resource_pattern_type.upper()]
    for kind, names in ((ResourceType.TOPIC, call.topic), (ResourceType.GROUP, call.group)):
        for name in names:
            for operation in call.operation:
                yield AclBinding(
                    kind,
                    name,
                    pattern,
                    call.allow_principal,
                    "*",
                    operations[operation.lower()],
                    AclPermissionType.ALLOW,
                )


@pytest.fixture(scope="module")
def as_user(
    broker: kafka_server.Broker,
    tls_files: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> As:
    """Rights given as the script says, topics made by their owner, a message in each."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    calls = told(tmp_path_factory.mktemp("acls"))
    wanted = [each for call in calls for each in bindings(call)]
    for done in admin.create_acls(wanted).values():
        done.result(timeout=120)

    def settings(user: str, *flags: str) -> Settings:
        return load(
            flags=[
                f"kafka.bootstrap={broker.secure_bootstrap}",
                "kafka.security_protocol=SASL_SSL",
                f"kafka.sasl_username={user}",
                f"kafka.sasl_password={PASSWORD}",
                f"kafka.ssl_ca={tls_files.ca}",
                f"kafka.topic_prefix={PREFIX}",
                f"kafka.group={PREFIX}group",
                "topics.partitions=1",
                *flags,
            ]
        )

    with pytest.raises(BrokerError, match=r"(?i)authorization"):
        create(settings("stranger"))
    assert set(create(settings("owner")).values()) == {"created"}
    master = Producer({"bootstrap.servers": broker.bootstrap})
    for name in NAMES:
        master.produce(PREFIX + name, b"{}", b"first")
    assert master.flush(120) == 0
    return settings


def may_write(settings: Settings) -> set[str]:
    """The topics that take a message; each of the others refuses for want of rights."""
    taken: set[str] = set()
    refused: dict[str, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        name = (message.topic() or "").removeprefix(PREFIX)
        if error is None:
            taken.add(name)
        else:
            refused[name] = error.code()

    config = {"on_delivery": delivered, "message.timeout.ms": 120_000, "linger.ms": 0}
    producer = Producer(confluent_config(settings, config))
    for name in NAMES:
        producer.produce(PREFIX + name, b"{}", b"mine")
    assert producer.flush(180) == 0
    assert set(refused.values()) <= {KafkaError.TOPIC_AUTHORIZATION_FAILED}, refused
    assert taken | refused.keys() == set(NAMES)
    return taken


def may_read(settings: Settings) -> set[str]:
    """The topics whose first message comes; each of the others refuses for want of rights."""
    consumer = Consumer(
        confluent_config(settings, {"group.id": "none", "enable.auto.commit": False})
    )
    try:
        read: set[str] = set()
        refused: set[str] = set()
        for name in NAMES:
            error = consumer.list_topics(PREFIX + name, timeout=120).topics[PREFIX + name].error
            if error is not None:
                assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error
                refused.add(name)
        seen = [name for name in NAMES if name not in refused]
        consumer.assign([TopicPartition(PREFIX + name, 0, 0) for name in seen])
        deadline = time.monotonic() + 120
        while read | refused != set(NAMES):
            assert time.monotonic() < deadline, (read, refused)
            message = consumer.poll(1)
            error = None if message is None else message.error()
            if message is None or (error and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED):
                continue  # nobody has rights on this group, and none are needed to read
            name = (message.topic() or "").removeprefix(PREFIX)
            if error is None:
                read.add(name)
            else:
                assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error
                refused.add(name)
        assert not read & refused
        return read
    finally:
        consumer.close()


@pytest.mark.parametrize("user", PRINCIPALS)
def test_each_principal_reads_and_writes_its_own_topics_only(as_user: As, user: str) -> None:
    settings = as_user(user)
    assert may_write(settings) == WRITES.get(user, set())
    assert may_read(settings) == READS.get(user, set())


def test_a_stranger_that_publishes_is_told_of_his_rights(as_user: As) -> None:
    with (
        pytest.raises(BrokerError, match=r"refuses this user.*docs/security\.md"),
        Publisher(settings=as_user("stranger")) as publisher,
    ):
        publisher.topic("transactions")


def test_a_worker_that_may_not_write_a_topic_is_told_which_right_is_missing(as_user: As) -> None:
    outbox = Outbox(as_user("operator"), render)
    told = rf"{PREFIX}alerts.*Let the worker's user write it; docs/security\.md.*Nothing is lost"
    with pytest.raises(BrokerError, match=told):
        outbox.deliver([b"alerts:1"])
    outbox.close()


def test_who_has_no_right_to_the_group_is_told_so(
    as_user: As, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka refuses a group in the place of a message that is of no topic and no partition."""
    settings, refused = (
        as_user("fraudstream", "kafka.group=elsewhere"),
        "Group authorization failed",
    )
    names = {name: settings.topic(name) for name in ("transactions", "labels")}
    request = Request(names, follow=True)
    recorder = Recorder(confluent_config(settings), request, Recording(str(tmp_path / "r")))
    with pytest.raises(BrokerError, match=f"cannot record: .*{refused}.*docs/security"):
        recorder.run()
    log = MergedLog(confluent_config(settings, {"group.id": "elsewhere"}), names["transactions"])
    with pytest.raises(BrokerError, match=f"cannot read: .*{refused}"):
        list(log.read({0: (0, 1_000_000)}))
    log.close()
    source = RuleSource(settings, RuleBook(frozenset()))
    with contextlib.suppress(BrokerError), source:  # as it comes before or after the rules' end
        deadline = time.monotonic() + 120
        while refused not in caplog.text:
            assert time.monotonic() < deadline and source._thread.is_alive()
            time.sleep(0.05)
        assert source._thread.is_alive(), "it goes on reading"


def test_nobody_but_the_owner_changes_topics(as_user: As) -> None:
    for user in PRINCIPALS:
        if user != "owner":
            admin = AdminClient(confluent_config(as_user(user)))
            for done in admin.delete_topics([PREFIX + "alerts"], operation_timeout=120).values():
                assert "AUTHORIZATION" in done.exception().args[0].name()
            # Some see topics that they may not change, some would make what they do not see.
            with pytest.raises(BrokerError, match=r"docs/security\.md"):
                create(as_user(user))
    assert set(create(as_user("owner")).values()) == {"exists"}


def listening_at(port: int) -> set[str]:
    """The local addresses on which somebody listens at this port, as the kernel writes them."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    places = [fields[1].split(":") for fields in lines if fields[3] == "0A"]
    return {address for address, at in places if int(at, 16) == port}


def test_the_builder_of_risk_snapshots_has_the_rights_it_needs(
    as_user: As, secure_redis: int, tls_files: Certificates
) -> None:
    log = RiskLog(as_user("fraudstream"))
    try:
        assert log.about(Pace(7))
        assert log.open("transactions", {}) == log.open("labels", {}) == {0: 0}
        log.assign(["transactions", "labels"])
        assert min(log.ends("labels").values()) > 0
        seen: set[str] = set()
        deadline = time.monotonic() + 120
        while seen != {"transactions", "labels"}:
            assert time.monotonic() < deadline
            seen |= {chunk.topic for chunk in log.read()}
    finally:
        log.close()
    with connect.redis_client(as_user("fraudstream", *redis_flags(secure_redis, tls_files))) as to:
        store = RiskStore(to, "fsacl")
        token = store.take()
        assert token is not None and store.alive()
        store.begin(token, "these topics")
        content = b"h" * 20 + b"words of eight b" * 4
        store.publish(token, 1, "digest", content, {"labels": {0: 1}})
        store.renew(token, 1)
        assert store.snapshot("digest") == content and store.named() == {1: "digest"}
        store.publish(token, 2, None, None, dropped={1: "digest"})
        assert store.state().front == 2 and store.digests([1]) == [None]
        store.release(token)


@pytest.mark.parametrize("kind", [ResourceType.TOPIC, ResourceType.GROUP])
def test_a_worker_that_loses_the_right_to_read_says_so_in_a_line(
    as_user: As, broker: kafka_server.Broker, redis_url: str, tmp_path: Path, kind: ResourceType
) -> None:
    """It ended, as it should, with a hundred lines of tracebacks and no word of what to do."""
    settings = as_user("fraudstream")
    right = [
        each
        for call in told(tmp_path)
        for each in bindings(call)
        if (each.restype, each.operation) == (kind, AclOperation.READ)
        and each.principal == "User:fraudstream"
        and each.name in (PREFIX + "transactions", settings.kafka.group)
    ]
    (rule,) = right
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    wanted = AclBindingFilter(
        rule.restype, rule.name, rule.resource_pattern_type, rule.principal, rule.host,
        rule.operation, rule.permission_type,
    )  # fmt: skip
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start(*sasl_flags(settings)).ready()
        for done in admin.delete_acls([wanted]).values():
            done.result(120)
        try:
            with Publisher(settings=as_user("publisher")) as out:
                out.send_encoded(out.topic("transactions"), [b"acct-1"], [payments(1, 1)[0][2]])
            assert worker.ended() == 1
        finally:
            for done in admin.create_acls(right).values():
                done.result(120)
        said = worker.said()
        assert re.search(r"error: Kafka refuses the worker's user.*docs/security\.md", said), said
        assert "Traceback" not in said and "Nothing is lost" in said


def sasl_flags(settings: Settings) -> list[str]:
    """How a worker enters as this user."""
    kafka = settings.kafka
    return [
        "kafka.security_protocol=SASL_SSL",
        f"kafka.sasl_username={kafka.sasl_username}",
        f"kafka.sasl_password={PASSWORD}",
        f"kafka.ssl_ca={kafka.ssl_ca}",
    ]


def redis_flags(port: int, files: Certificates) -> list[str]:
    """The restricted user of Redis, over TLS."""
    return [
        f"redis.url=rediss://127.0.0.1:{port}/0",
        "redis.username=fraudstream",
        f"redis.password={PASSWORD}",
        f"redis.ssl_ca={files.ca}",
        "redis.namespace=fsacl",
    ]


def test_the_service_works_with_these_rights_and_no_others(
    as_user: As, secure_redis: int, tls_files: Certificates, redis_url: str, tmp_path: Path
) -> None:
    """TLS to both, a principal for each part, the restricted user of Redis; all real."""
    store = redis_flags(secure_redis, tls_files)
    port = process.free_port()
    secured = [*sasl_flags(as_user("fraudstream")), f"metrics.port={port}", *store]
    operator = as_user("operator", *store)
    before = scored(operator)
    with team(as_user("fraudstream"), redis_url, tmp_path) as workers:
        worker = workers.start(*secured).ready()
        with Publisher(settings=as_user("publisher")) as out:
            keys, values = zip(*((key, value) for _, key, value in payments(50, 1)), strict=True)
            out.send_encoded(out.topic("transactions"), keys, values)
        worker.until(lambda: scored(operator) >= before + 50)
        assert listening_at(port) == {"0100007F"}, "metrics on loopback only"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert b"acct-" not in answer.read()
        [erased] = forget(operator, "acct-7")
        assert erased.had_state
        worker.until(lambda: status(operator).lag == 0)
        assert worker.stop()[0] == 0, worker.said()
        for secret in (PASSWORD, "acct-"):
            assert secret not in worker.said()
    with Subscriber("scores", settings=as_user("subscriber"), start="earliest", follow=False) as it:
        ids = {message.value() for message in it.messages()}
    assert len(ids) >= 50
    scored_one = orjson.loads(ids.pop())["transaction_id"]
    assert label(as_user("analyst"), scored_one, "legitimate").counts
    assert audit(operator).headings["missing"] == 0
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=secure_redis, ssl=True, ssl_ca_certs=str(tls_files.ca)).ping()

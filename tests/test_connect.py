"""Right and wrong passwords and certificates, on a real Kafka and a real Redis with TLS."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import redis
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import KafkaError

from streams import connect
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import BrokerError, ConfigError, StoreUnready
from streams.settings import Settings, load
from streams.store import WHOLE, Commit, Identity, Writes
from streams.store.redis import RedisStore
from tests import certificates
from tests.certificates import Certificates
from tests.conftest import PASSWORD, USER

WRONG = "wrong-Pa55word"


def kafka_settings(broker: kafka_server.Broker, ca: Path, password: str = PASSWORD) -> Settings:
    return load(
        flags=[
            f"kafka.bootstrap={broker.secure_bootstrap}",
            "kafka.security_protocol=SASL_SSL",
            f"kafka.sasl_username={USER}",
            f"kafka.sasl_password={password}",
            f"kafka.ssl_ca={ca}",
        ]
    )


def test_kafka_lets_the_right_password_in(
    broker: kafka_server.Broker, tls_files: Certificates
) -> None:
    settings = kafka_settings(broker, tls_files.ca)
    connect.check_kafka(settings, timeout_s=120)

    async def over_aiokafka() -> list[str]:
        admin = AIOKafkaAdminClient(**connect.aiokafka_config(settings))
        await admin.start()
        try:
            topics: list[str] = await admin.list_topics()
            return topics
        finally:
            await admin.close()

    assert isinstance(asyncio.run(over_aiokafka()), list)


def test_kafka_refuses_a_wrong_password_in_one_sentence(
    broker: kafka_server.Broker, tls_files: Certificates
) -> None:
    with pytest.raises(BrokerError, match=r"refuses user 'payments'.*sasl_password") as refusal:
        connect.check_kafka(kafka_settings(broker, tls_files.ca, WRONG), timeout_s=120)
    assert WRONG not in str(refusal.value)


def test_kafka_with_a_foreign_authority_is_a_tls_error(
    broker: kafka_server.Broker, tmp_path: Path
) -> None:
    stranger = certificates.make(tmp_path / "other").ca
    said = "no TLS connection to Kafka.*is refused: another authority signed it"
    with pytest.raises(BrokerError, match=said):
        connect.check_kafka(kafka_settings(broker, stranger), timeout_s=120)


def test_no_kafka_at_the_address() -> None:
    settings = load(flags=[f"kafka.bootstrap=127.0.0.1:{process.free_port()}"])
    with pytest.raises(BrokerError, match=r"does not answer.*fraudstream services up"):
        connect.check_kafka(settings, timeout_s=1)


def test_kafka_that_wants_a_certificate_of_ours(
    broker: kafka_server.Broker, mutual_port: int, tls_files: Certificates
) -> None:
    flags = [f"kafka.bootstrap=127.0.0.1:{mutual_port}", "kafka.security_protocol=SSL"]
    with pytest.raises(BrokerError, match=r"speaks, or does it want a kafka\.ssl_cert\?"):
        connect.check_kafka(load(flags=[*flags, f"kafka.ssl_ca={tls_files.ca}"]), timeout_s=1)


@pytest.mark.parametrize("spoken", ["PLAINTEXT", "SASL_PLAINTEXT", "SSL"])
def test_kafka_that_is_spoken_to_in_another_protocol(
    broker: kafka_server.Broker, tls_files: Certificates, spoken: str
) -> None:
    flags = [f"kafka.bootstrap={broker.secure_bootstrap}", f"kafka.security_protocol={spoken}"]
    flags += [f"kafka.sasl_username={USER}", f"kafka.sasl_password={PASSWORD}"]
    with pytest.raises(BrokerError, match=f"kafka.security_protocol={spoken} what the listener"):
        connect.check_kafka(load(flags=[*flags, f"kafka.ssl_ca={tls_files.ca}"]), timeout_s=1)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "topics create"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "docs/security.md"),
        (KafkaError._TIMED_OUT, "None"),
    ],
)
def test_a_topic_that_is_there_is_not_to_be_created(code: int, remedy: str) -> None:
    assert remedy in str(connect.topic_remedy(KafkaError(code)))


def test_faust_gets_the_same_credentials(
    broker: kafka_server.Broker, tls_files: Certificates
) -> None:
    settings = kafka_settings(broker, tls_files.ca)
    urls, credentials = connect.faust_broker(settings)
    assert urls == [f"kafka://{broker.secure_bootstrap}"]
    assert credentials is not None
    assert credentials.protocol.value == "SASL_SSL"
    assert PASSWORD not in repr(credentials)
    assert connect.faust_broker(load(flags=["kafka.bootstrap=a:1, b:2"])) == (
        ["kafka://a:1", "kafka://b:2"],
        None,
    )


def test_a_certificate_that_is_no_certificate(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("not PEM")
    settings = load(flags=["kafka.security_protocol=SSL", f"kafka.ssl_ca={wrong}"])
    for config in (connect.aiokafka_config, connect.check_kafka):
        with pytest.raises(ConfigError, match=f"{wrong}.*ssl_ca"):
            config(settings)
    wrong.unlink()
    with pytest.raises(ConfigError, match=f"{wrong}.*No such file"):
        connect.check_kafka(settings)


def redis_settings(port: int, ca: Path, password: str = PASSWORD) -> Settings:
    return load(
        flags=[
            f"redis.url=rediss://127.0.0.1:{port}/0",
            "redis.username=fraudstream",
            f"redis.password={password}",
            f"redis.ssl_ca={ca}",
        ]
    )


def test_a_certificate_of_redis_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/none.pem.*no such file"):
        connect.check_redis(redis_settings(1, tmp_path / "none.pem"))


def test_redis_lets_the_right_password_in(secure_redis: int, tls_files: Certificates) -> None:
    settings = redis_settings(secure_redis, tls_files.ca)
    connect.check_redis(settings)
    with connect.redis_client(settings) as client:
        assert client.set("fs:{0}:a:x", b"1")
        assert client.eval("return redis.call('GET', KEYS[1])", 1, "fs:{0}:a:x") == b"1"
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_redis_7_0_starts_with_the_users_file() -> None:
    """It ends at a command that it does not know: CLIENT SETINFO came with 7.2."""
    assert "setinfo" not in (kafka_server.infra() / "redis" / "users.acl").read_text()


def test_a_connection_asks_redis_for_nothing_that_its_user_may_not(
    secure_redis: int, tls_files: Certificates
) -> None:
    """Each would be an entry of ACL LOG, which somebody watches."""
    settings = redis_settings(secure_redis, tls_files.ca)

    def refused() -> int:
        with connect.redis_client(settings) as client:
            return int(client.info("stats")["acl_access_denied_cmd"])

    assert refused() == refused()


def test_redis_user_may_not_leave_its_keys_and_commands(
    secure_redis: int, tls_files: Certificates
) -> None:
    with connect.redis_client(redis_settings(secure_redis, tls_files.ca)) as client:
        for command in (("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "SET", "save", "")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_the_restricted_user_may_do_all_that_the_store_does(
    secure_redis: int, tls_files: Certificates
) -> None:
    with connect.redis_client(redis_settings(secure_redis, tls_files.ca)) as client:
        store = RedisStore(client)
        store.check()
        claim = store.acquire(0, Identity("topic", 1))
        store.commit(
            claim, Commit(None, 5, Writes.of([("account", [(WHOLE, b"record")])]), entry=b"entry")
        )
        assert store.load(claim, ["account"], 5) == [b"record"]
        assert store.pending(claim) == [(5, b"entry")]
        store.trim(claim, [5])
        store.forget(0, "account", 5, lambda entry: entry)
        claim = store.acquire(0, Identity("topic", 1))
        assert store.load(claim, ["account"], 5) == [None]
        assert list(store.forgotten(claim).values()) == [5]
        rebuilt = RedisStore(client, generation=1)
        rebuilt.commit(rebuilt.acquire(0, Identity("topic", 1)), Commit(None, 1))


def test_redis_refuses_a_wrong_password_in_one_sentence(
    secure_redis: int, tls_files: Certificates
) -> None:
    with pytest.raises(StoreUnready, match=r"refuses the user name.*redis\.password") as refusal:
        connect.check_redis(redis_settings(secure_redis, tls_files.ca, WRONG))
    assert WRONG not in str(refusal.value)


def test_redis_with_a_foreign_authority_is_a_tls_error(secure_redis: int, tmp_path: Path) -> None:
    stranger = certificates.make(tmp_path / "other").ca
    with pytest.raises(StoreUnready, match="ssl_ca"):
        connect.check_redis(redis_settings(secure_redis, stranger))


def test_a_redis_that_is_frozen(tmp_path: Path) -> None:
    server = redis_server.start(tmp_path, die_with_parent=True)
    try:
        os.kill(server.child.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnready, match=r"Timeout reading.*says nothing.*busy or frozen"):
            connect.check_redis(load(flags=[f"redis.url={server.url}", "redis.timeout_s=1"]))
    finally:
        process.stop(server.child, 0)


def test_a_redis_that_loads_its_file(tmp_path: Path) -> None:
    server = redis_server.start(tmp_path, die_with_parent=True)
    with redis.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as many:
        for number in range(5_000):
            many.set(f"key{number}", "v")
        many.execute()
    process.stop(server.child, 10)
    with (tmp_path / "redis.conf").open("a") as slowly:
        slowly.write("key-load-delay 2000\n")  # 10 s in all; somebody is answered every 2 s
    command = [redis_server.binary(), str(tmp_path / "redis.conf")]
    loading = process.start(command, tmp_path / "out", die_with_parent=True)
    try:
        while "refused" in (said := _refusal(server.url)):
            assert process.alive(loading)
        assert "loading" in said and "loading_eta_seconds" in said, said
    finally:
        process.stop(loading, 0)


def _refusal(url: str) -> str:
    try:
        connect.check_redis(load(flags=[f"redis.url={url}", "redis.timeout_s=10"]))
    except StoreUnready as error:
        return str(error)
    return "none"


def test_no_redis_at_the_address_and_no_password_in_the_message() -> None:
    port = process.free_port()
    settings = load(flags=[f"redis.url=redis://someone:{PASSWORD}@127.0.0.1:{port}/0"])
    with pytest.raises(StoreUnready, match="fraudstream services up") as refusal:
        connect.check_redis(settings)
    assert PASSWORD not in str(refusal.value)
    assert connect.redis_address(settings) == f"redis://127.0.0.1:{port}/0"


def test_a_redis_that_cannot_write_is_not_told_to_be_started(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ping(_client: redis.Redis) -> None:
        # What a server with a full disk says, also to a PING.
        raise redis.exceptions.ResponseError(
            "MISCONF Errors writing to the AOF file: No space left on device"
        )

    monkeypatch.setattr(redis.Redis, "ping", ping)
    with pytest.raises(StoreUnready, match=r"No space left on device.*Make room") as refusal:
        connect.check_redis(load(flags=[f"redis.url={redis_url}"]))
    assert "services up" not in str(refusal.value)


def test_tls_files_need_a_tls_address(tls_files: Certificates) -> None:
    settings = load(flags=["redis.url=redis://127.0.0.1:1/0", f"redis.ssl_ca={tls_files.ca}"])
    with pytest.raises(ConfigError, match="rediss://"):
        connect.redis_client(settings)
    with pytest.raises(ConfigError, match=r"redis\.url"):
        connect.redis_client(load(flags=["redis.url=nonsense"]))


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hun/ter2@localhost:6379/0",
        "redis://u:hun#ter2@localhost:6379/0",
        "redis://u:hun?ter2@localhost:6379/0",
        "redis://u:hunter2@localhost:hunter2/0",
        "redis://localhost:6379/0?password=hun@ter2&wrong=hunter2",
        "rediss://u:hunter2@[::1/0",
    ],
)
def test_no_part_of_a_password_is_shown_when_a_url_comes_apart(url: str) -> None:
    settings = load(flags=[f"redis.url={url}"])
    with pytest.raises(ConfigError) as refusal:
        connect.redis_client(settings)
    shown = f"{refusal.value} {connect.redis_address(settings)}"
    assert "hun" not in shown and "123" not in shown and "%2F" in shown


def test_an_address_without_a_secret_is_shown_whole() -> None:
    # A valid URL of the host `u` to everybody, but not what was meant.
    meant = load(flags=["redis.url=redis://u:123?hunter2@localhost:6379/0"])
    assert connect.redis_address(meant) == "the address in redis.url"
    for url in ("redis://r-1.example:6379/2", "rediss://[::1]:6380/0"):
        assert connect.redis_address(load(flags=[f"redis.url={url}"])) == url

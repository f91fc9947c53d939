"""Right and wrong passwords and certificates, on a real Kafka and a real Redis with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from aiokafka.admin import AIOKafkaAdminClient

from streams import connect
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import BrokerError, ConfigError, ServiceError, StoreUnready
from streams.settings import Settings, load
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
    connect.check_kafka(settings)

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
        connect.check_kafka(kafka_settings(broker, tls_files.ca, WRONG))
    assert WRONG not in str(refusal.value)


def test_kafka_with_a_foreign_authority_is_a_tls_error(
    broker: kafka_server.Broker, tmp_path: Path
) -> None:
    stranger = certificates.make(tmp_path / "other").ca
    with pytest.raises(BrokerError, match="no TLS connection to Kafka"):
        connect.check_kafka(kafka_settings(broker, stranger))


def test_no_kafka_at_the_address() -> None:
    settings = load(flags=[f"kafka.bootstrap=127.0.0.1:{process.free_port()}"])
    with pytest.raises(BrokerError, match=r"does not answer.*fraudstream services up"):
        connect.check_kafka(settings, timeout_s=1)


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
    with pytest.raises(ConfigError, match="ssl_ca"):
        connect.aiokafka_config(settings)
    with pytest.raises(ConfigError, match=r"\[kafka\] settings"):
        connect.check_kafka(settings)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()


@contextlib.contextmanager
def tls_in_front(port: int, files: Certificates) -> Iterator[int]:
    """TLS before a plain server, as stunnel does it, for a Redis that was built without TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ports: list[int] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, behind[1]), _copy(behind[0], writer))

    async def serve() -> None:
        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    yield ports[0]
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def secure_redis(
    tmp_path_factory: pytest.TempPathFactory, tls_files: Certificates
) -> Iterator[int]:
    """The TLS port of a Redis with the users of infra/redis/users.acl."""
    directory = tmp_path_factory.mktemp("secure-redis")
    template = (kafka_server.infra() / "redis" / "users.acl").read_text()
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    (directory / "users.acl").write_text(template.replace("PASSWORD_SHA256", digest))
    extra = {"aclfile": f'"{directory / "users.acl"}"'}
    tls = {
        "tls-port": str(process.free_port()),
        "tls-cert-file": str(tls_files.certificate),
        "tls-key-file": str(tls_files.key),
        "tls-ca-cert-file": str(tls_files.ca),
        "tls-auth-clients": "no",
    }
    try:
        server = redis_server.start(directory, extra=extra | tls, die_with_parent=True)
    except ServiceError as error:
        if "tls" not in str(error).lower():
            raise
        server = redis_server.start(directory, extra=extra, die_with_parent=True)
    if server.tls_port is not None:
        yield server.tls_port
    else:
        with tls_in_front(server.port, tls_files) as port:
            yield port
    process.stop(server.child, 0)


def redis_settings(port: int, ca: Path, password: str = PASSWORD) -> Settings:
    return load(
        flags=[
            f"redis.url=rediss://127.0.0.1:{port}/0",
            "redis.username=fraudstream",
            f"redis.password={password}",
            f"redis.ssl_ca={ca}",
        ]
    )


def test_redis_lets_the_right_password_in(secure_redis: int, tls_files: Certificates) -> None:
    settings = redis_settings(secure_redis, tls_files.ca)
    connect.check_redis(settings)
    with connect.redis_client(settings) as client:
        assert client.set("fs:{0}:a:x", b"1")
        assert client.eval("return redis.call('GET', KEYS[1])", 1, "fs:{0}:a:x") == b"1"
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_redis_user_may_not_leave_its_keys_and_commands(
    secure_redis: int, tls_files: Certificates
) -> None:
    with connect.redis_client(redis_settings(secure_redis, tls_files.ca)) as client:
        for command in (("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "SET", "save", "")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


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


def test_no_redis_at_the_address_and_no_password_in_the_message() -> None:
    port = process.free_port()
    settings = load(flags=[f"redis.url=redis://someone:{PASSWORD}@127.0.0.1:{port}/0"])
    with pytest.raises(StoreUnready, match="fraudstream services up") as refusal:
        connect.check_redis(settings)
    assert PASSWORD not in str(refusal.value)
    assert connect.redis_address(settings) == f"redis://127.0.0.1:{port}/0"


def test_tls_files_need_a_tls_address(tls_files: Certificates) -> None:
    settings = load(flags=["redis.url=redis://127.0.0.1:1/0", f"redis.ssl_ca={tls_files.ca}"])
    with pytest.raises(ConfigError, match="rediss://"):
        connect.redis_client(settings)
    with pytest.raises(ConfigError, match=r"redis\.url"):
        connect.redis_client(load(flags=["redis.url=nonsense"]))

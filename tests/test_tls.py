"""TLS with a private authority, to Kafka and to Redis: what must be refused is, on both sides."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from streams import connect
from streams.dev import kafka as kafka_server
from streams.dev import redis as redis_server
from streams.errors import BrokerError, ConfigError, StoreUnready
from streams.settings import Settings, load
from tests import certificates, tls_relay
from tests.certificates import Certificates

SERVERS = pytest.mark.parametrize(
    ("host", "days", "right"),
    [("127.0.0.1", 1, True), ("127.0.0.2", 1, False), ("127.0.0.1", -1, False)],
    ids=["right", "of another host", "expired"],
)


HELLO = b"\0\0\0\x0a\0\x12\0\0\0\0\0\1\xff\xff"
"""Kafka's ApiVersions request: what any client asks first."""


def as_faust_connects(settings: Settings) -> bool:
    """Whether the TLS context that Faust and aiokafka get leads to an answer of the broker.

    Without those two, because aiokafka leaves the socket of a failed handshake to the collector.
    """
    host, _, port = settings.kafka.bootstrap.rpartition(":")
    context = connect.aiokafka_config(settings)["ssl_context"]
    try:
        with (
            socket.create_connection((host, int(port)), timeout=120) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.sendall(HELLO)
            return bool(secured.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False


def kafka_at(port: int, *flags: str) -> Settings:
    return load(flags=[f"kafka.bootstrap=127.0.0.1:{port}", "kafka.security_protocol=SSL", *flags])


@SERVERS
def test_a_redis_must_show_a_certificate_of_this_host_and_of_today(
    redis_process: redis_server.Server, tmp_path: Path, host: str, days: int, right: bool
) -> None:
    made = certificates.make(tmp_path, host=host, days=days)
    with tls_relay.tls_in_front(redis_process.port, made) as port:
        settings = load(flags=[f"redis.url=rediss://127.0.0.1:{port}/0", f"redis.ssl_ca={made.ca}"])
        if right:
            connect.check_redis(settings)
        else:
            with pytest.raises(StoreUnready, match=r"(?i)certificate|tls"):
                connect.check_redis(settings)


@SERVERS
def test_a_broker_must_show_a_certificate_of_this_host_and_of_today(
    broker: kafka_server.Broker, tmp_path: Path, host: str, days: int, right: bool
) -> None:
    made = certificates.make(tmp_path, host=host, days=days)
    plain = int(broker.bootstrap.rpartition(":")[2])
    with tls_relay.tls_in_front(plain, made) as port:
        settings = kafka_at(port, f"kafka.ssl_ca={made.ca}")
        # The right one is for test_connect, on Kafka's own TLS listener: librdkafka leaves a relay
        # for the address that the broker advertises as soon as it knows it.
        if not right:
            why = "certificate has expired" if days < 0 else "not valid for '127.0.0.1'"
            with pytest.raises(BrokerError, match=f"no TLS connection.*is refused: .*{why}"):
                connect.check_kafka(settings, timeout_s=120)
        assert as_faust_connects(settings) == right


def locked(key: Path, password: str) -> Path:
    """The private key again, behind a password."""
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    made = key.with_name("locked.pem")
    made.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    return made


@pytest.mark.parametrize("client", ["right", "none", "of another authority"])
def test_a_broker_that_wants_certificates_of_its_clients(
    broker: kafka_server.Broker,
    mutual_port: int,
    tls_files: Certificates,
    tmp_path: Path,
    client: str,
) -> None:
    assert broker.secure_bootstrap is not None
    own = tls_files if client == "right" else certificates.make(tmp_path / "other")
    flags = [f"kafka.ssl_ca={tls_files.ca}"]
    if client != "none":
        key = locked(own.key, "hunter2") if client == "right" else own.key
        flags += [f"kafka.ssl_cert={own.certificate}", f"kafka.ssl_key={key}"]
        flags += ["kafka.ssl_key_password=hunter2"] if client == "right" else []
    settings = kafka_at(mutual_port, *flags)
    if client == "right":
        connect.check_kafka(settings, timeout_s=120)
    else:
        with pytest.raises(BrokerError):
            connect.check_kafka(settings, timeout_s=3)
    assert as_faust_connects(settings) == (client == "right")


@pytest.mark.parametrize("client", ["right", "none", "of another authority"])
def test_a_redis_that_wants_certificates_of_its_clients(
    redis_process: redis_server.Server, tls_files: Certificates, tmp_path: Path, client: str
) -> None:
    own = tls_files if client == "right" else certificates.make(tmp_path / "other")
    with tls_relay.tls_in_front(redis_process.port, tls_files, mutual=True) as port:
        flags = [f"redis.url=rediss://127.0.0.1:{port}/0", f"redis.ssl_ca={tls_files.ca}"]
        if client != "none":
            flags += [f"redis.ssl_cert={own.certificate}", f"redis.ssl_key={own.key}"]
        settings = load(flags=flags)
        if client == "right":
            connect.check_redis(settings)
        else:
            with pytest.raises(StoreUnready):
                connect.check_redis(settings)


def test_a_key_with_a_wrong_password_is_told_without_it(
    tls_files: Certificates, tmp_path: Path
) -> None:
    own = certificates.make(tmp_path / "own")
    settings = kafka_at(
        1,
        f"kafka.ssl_ca={tls_files.ca}",
        f"kafka.ssl_cert={own.certificate}",
        f"kafka.ssl_key={locked(own.key, 'right')}",
        "kafka.ssl_key_password=hunter2",
    )
    for call in (connect.aiokafka_config, connect.check_kafka):
        with pytest.raises((BrokerError, ConfigError)) as refusal:
            call(settings)
        assert "hunter2" not in str(refusal.value)


def test_a_key_of_redis_with_a_password_is_told_and_nobody_is_asked_for_it(
    tls_files: Certificates, tmp_path: Path
) -> None:
    own = certificates.make(tmp_path / "own")
    settings = load(
        flags=[
            "redis.url=rediss://127.0.0.1:1/0",
            f"redis.ssl_ca={tls_files.ca}",
            f"redis.ssl_cert={own.certificate}",
            f"redis.ssl_key={locked(own.key, 'right')}",
        ]
    )
    with pytest.raises(ConfigError, match=r"of \[redis\] cannot be used") as refusal:
        connect.check_redis(settings)
    assert refusal.value.remedy is not None and "no password" in refusal.value.remedy


@pytest.mark.parametrize("section", ["kafka", "redis"])
def test_a_key_without_its_certificate_is_told(section: str) -> None:
    with pytest.raises(ConfigError, match=f"{section}.ssl_key: .*set ssl_cert"):
        load(flags=[f"{section}.ssl_key=key.pem"])

"""Real services for the tests: one Kafka and one Redis for each process that runs tests.

A missing part (Java, Maven, a Redis server) fails the tests that ask for it; nothing is skipped.
The servers die with the test process, however it ends.
"""

from __future__ import annotations

import faulthandler
import hashlib
import itertools
import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import certificates, tls_relay

# Two cores are shared by the servers and the tests; and results must not depend on thread counts.
for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from streams.dev import kafka as kafka_server  # noqa: E402
from streams.dev import process  # noqa: E402
from streams.dev import redis as redis_server  # noqa: E402
from streams.errors import ServiceError  # noqa: E402

# A script that runs the tests in the background lets nothing that they start hear Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Nor does `nohup` let it hear that a terminal was closed. The tests themselves go on then.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

# A slow machine is no fault: speed is for the benchmarks.
_untimed = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("untimed", settings(), **_untimed)
settings.load_profile("untimed")

pytest_plugins = ("tests.faults.table",)
"""Named here, since the process that sums up loads no conftest further down when others run the
tests for it."""

_numbers = itertools.count(1)


def pytest_unconfigure() -> None:
    """A thread that a failed test left behind must not keep the process for ever."""
    if "PYTEST_XDIST_WORKER" not in os.environ:  # which waits for the others, and is ended for them
        faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    """What a verb that runs in this process makes of the logs is not left to the next test."""
    root = logging.getLogger()
    level, filters = root.level, {each: each.filters[:] for each in root.handlers}
    yield
    root.setLevel(level)
    root.handlers[:] = list(filters)
    for handler, those in filters.items():
        handler.filters[:] = those


USER, PASSWORD = "payments", "right-Pa55word"
"""Who may enter the TLS listeners of the session's Kafka and Redis, and do all there."""

PRINCIPALS = (
    "fraudstream", "publisher", "subscriber", "analyst", "operator", "owner", "stranger",
)  # fmt: skip
"""Users of Kafka, of the same password, who may do what `infra/kafka/acls.sh` says."""


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    """A private authority and a server certificate for 127.0.0.1."""
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def mutual_port() -> int:
    """Where the session's Kafka wants a certificate of its clients."""
    return process.free_port()


@pytest.fixture(scope="session")
def broker(
    tmp_path_factory: pytest.TempPathFactory, tls_files: certificates.Certificates, mutual_port: int
) -> Iterator[kafka_server.Broker]:
    """The session's Apache Kafka: a plain listener, one with SASL/SCRAM over TLS, and one that
    wants certificates of its clients."""
    secured = kafka_server.Secured(
        ca=tls_files.ca,
        identity=tls_files.identity,
        users=dict.fromkeys((USER, *PRINCIPALS), PASSWORD),
        masters=(USER,),
        mutual_port=mutual_port,
    )
    # No controller is to shut the only broker out because a busy machine delays its heartbeats.
    extra = {"broker.session.timeout.ms": "120000"}
    running = kafka_server.start(
        tmp_path_factory.mktemp("kafka"), secured=secured, extra=extra, die_with_parent=True
    )
    yield running
    process.stop(running.child, 0)


@pytest.fixture(scope="session")
def kafka(broker: kafka_server.Broker) -> str:
    """The bootstrap address of the session's Kafka. Use `topic_prefix` to stay apart."""
    return broker.bootstrap


@pytest.fixture
def topic_prefix() -> str:
    """A prefix (also good as a group name) that no other test of this session has."""
    return f"t{next(_numbers)}-"


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis_server.Server]:
    """The session's Redis."""
    running = redis_server.start(tmp_path_factory.mktemp("redis"), die_with_parent=True)
    yield running
    process.stop(running.child, 0)


@pytest.fixture
def redis_url(redis_process: redis_server.Server) -> str:
    """The URL of the session's Redis, emptied."""
    import redis

    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
        client.config_resetstat()
    return redis_process.url


@pytest.fixture(scope="session")
def secure_redis(
    tmp_path_factory: pytest.TempPathFactory, tls_files: certificates.Certificates
) -> Iterator[int]:
    """The TLS port of a Redis with the users of infra/redis/users.acl."""
    directory = tmp_path_factory.mktemp("secure-redis")
    template = (kafka_server.infra() / "redis" / "users.acl").read_text()
    digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
    # A second namespace, so that two tests do not meet.
    template = template.replace("~fs:* ~fs.*", "~fs:* ~fs.* ~fsacl:* ~fsacl.*")
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
        with tls_relay.tls_in_front(server.port, tls_files) as port:
            yield port
    process.stop(server.child, 0)

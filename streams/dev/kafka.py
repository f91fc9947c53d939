"""A real Apache Kafka on this machine: one node, as a child process, no Docker, no root.

In: a directory, and optionally TLS files and SCRAM users. Out: a running broker's addresses.
Does not know about Redis, topics, or the command line.

The jars come from Maven once, into a cache that all data directories share. They are gathered in a
directory of another name and renamed when complete, so a cut download is never taken for a cache.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.dev import process
from streams.dev.process import Child, explained
from streams.errors import ServiceError, ToolMissing

KAFKA_VERSION = "4.3.1"
MIN_JAVA = 17
MAVEN_TIMEOUT_S = 600
START_TIMEOUT_S = 120
STOP_PATIENCE_S = 15
CACHE = "Set XDG_CACHE_HOME to a directory that may be written to: Kafka is kept there"
HEAP = "512m"

_logger = logging.getLogger(__name__)


def infra() -> Path:
    """The directory of configuration files: of the source tree, or the copy inside the package."""
    packaged = Path(__file__).with_name("infra")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "infra"


@dataclass(frozen=True, slots=True)
class Secured:
    """More listeners, and rights. SASL_SSL with SCRAM: PEM files and who may enter.

    identity:    private key and certificate chain in one PEM file
    masters:     users who may do all; others need ACLs. Who enters without a name may do all, too:
                 so do the broker itself and its plain listener
    mutual_port: a listener that wants a certificate of the client, signed by `ca`
    """

    ca: Path
    identity: Path
    users: Mapping[str, str]
    masters: Sequence[str]
    mutual_port: int


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker."""

    child: Child
    bootstrap: str
    secure_bootstrap: str | None
    logs: tuple[Path, ...]


def java() -> str:
    """The path of a Java that Kafka runs on. Raises ToolMissing; ServiceError for a broken one."""
    remedy = (
        f"Install Java {MIN_JAVA} or later (Debian: apt-get install openjdk-17-jre-headless); "
        "for a demo without Java use --engine embedded"
    )
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise ToolMissing("no java in PATH", remedy=remedy)
    shown = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    if version is None:
        raise ServiceError(f"{found} -version tells no version: it does not work", remedy=remedy)
    if int(version[1]) < MIN_JAVA:
        have = f"{found} is Java {version[1]}"
        raise ToolMissing(f"{have}; Kafka {KAFKA_VERSION} needs {MIN_JAVA} or later", remedy=remedy)
    return found


def cache_root() -> Path:
    """Where downloads are kept, for all data directories. Raises ServiceError."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named or Path.home() / ".cache") / "fraudstream"
    except RuntimeError:
        raise ServiceError("this user has no home directory", remedy=CACHE) from None


def jars(cache: Path | None = None) -> Path:
    """The directory of Kafka's jars, filled by Maven when it is not there.

    Raises ToolMissing without Maven, ServiceError when it fails.
    """
    pom = infra() / "kafka" / "pom.xml"
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:8]
    home = (cache or cache_root()) / f"kafka-{KAFKA_VERSION}-{digest}"
    if home.is_dir():
        return home
    maven = shutil.which("mvn")
    if maven is None:
        raise ToolMissing(
            "no mvn in PATH, and it is needed once to get Kafka",
            remedy="Install Maven (Debian: apt-get install maven); "
            "for a demo without it use --engine embedded",
        )
    with explained(f"filling {home}", CACHE):
        home.parent.mkdir(parents=True, exist_ok=True)
        process.need_space(home.parent, remedy=CACHE)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.") as partial:
            _download(maven, pom, Path(partial))
            complete = Path(partial) / "lib"
            try:
                complete.rename(home)
            except OSError:
                # Somebody else filled it meanwhile; theirs is as good.
                if not home.is_dir():
                    raise
    return home


def _download(maven: str, pom: Path, place: Path) -> None:
    """Let Maven copy the jars to `place`/lib. It writes nothing beside the pom."""
    copied = shutil.copy(pom, place / "pom.xml")
    _logger.info("getting Apache Kafka %s from Maven Central, once (44 MB)", KAFKA_VERSION)
    command = [maven, "-q", "-B", "-f", str(copied), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={place / 'lib'}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MAVEN_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"Maven did not get Kafka in {MAVEN_TIMEOUT_S} s", remedy="Check the network; try again"
        ) from None
    jar = place / "lib" / f"kafka_2.13-{KAFKA_VERSION}.jar"
    if done.returncode != 0 or not jar.exists():
        said = "\n".join((done.stdout + done.stderr).splitlines()[-process.TAIL_LINES :])
        raise ServiceError(
            f"Maven could not get Kafka:\n{said}\n", remedy="Check the network; try again"
        )


def _properties(
    directory: Path, port: int, controller_port: int, secured: Secured | None, secure_port: int
) -> str:
    """server.properties: the shared settings, then what belongs to this node."""
    listeners = {"PLAINTEXT": port, "CONTROLLER": controller_port}
    if secured is not None:
        listeners |= {"SASL_SSL": secure_port, "SSL": secured.mutual_port}
    addresses = {name: f"{name}://127.0.0.1:{at}" for name, at in listeners.items()}
    lines = [
        (infra() / "kafka" / "server.properties").read_text("utf-8"),
        "listeners=" + ",".join(addresses.values()),
        "advertised.listeners="
        + ",".join(address for name, address in addresses.items() if name != "CONTROLLER"),
        "listener.security.protocol.map="
        + "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "inter.broker.listener.name=PLAINTEXT",
        f"controller.quorum.voters=1@127.0.0.1:{controller_port}",
        f"log.dirs={directory / 'data'}",
    ]
    if secured is not None:
        lines += [
            "sasl.enabled.mechanisms=SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config="
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={secured.identity}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={secured.ca}",
            "listener.name.ssl.ssl.client.auth=required",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=" + ";".join(f"User:{name}" for name in ("ANONYMOUS", *secured.masters)),
        ]
    return "\n".join(lines) + "\n"


def cluster_id() -> str:
    """A name for a new cluster, as Kafka wants it: 22 characters of base64."""
    # The first bit is cleared: one id in 64 would start with a dash and be read as an option.
    number = uuid.uuid4().int & ((1 << 127) - 1)
    return base64.urlsafe_b64encode(number.to_bytes(16, "big")).decode().rstrip("=")


def _format(command: list[str], directory: Path, secured: Secured | None, cluster: str) -> None:
    """Give an empty data directory its cluster id and its first users."""
    if (directory / "data" / "meta.properties").exists():
        return
    users = [
        f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]"
        for name, password in (secured.users if secured else {}).items()
    ]
    format_it = ["kafka.tools.StorageTool", "format", "-t", cluster]
    format_it += ["-c", str(directory / "server.properties"), *users]
    done = subprocess.run(
        [*command, *format_it],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT_S,
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-process.TAIL_LINES :])
        raise ServiceError(f"Kafka cannot format {directory / 'data'}:\n{said}")


def start(
    directory: Path,
    *,
    port: int | None = None,
    secured: Secured | None = None,
    extra: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
) -> Broker:
    """Start a broker in `directory` and wait until it answers. Raises ServiceError."""
    broker = launch(
        directory, port=port, secured=secured, extra=extra, die_with_parent=die_with_parent
    )
    await_broker(broker, "Kafka", START_TIMEOUT_S)
    return broker


def launch(
    directory: Path,
    *,
    port: int | None = None,
    secured: Secured | None = None,
    extra: Mapping[str, str] | None = None,
    cluster: str | None = None,
    die_with_parent: bool = False,
) -> Broker:
    """Start a broker in `directory` and do not wait: a node of several waits for the others.

    `extra` are lines of server.properties; they win over those written here. `cluster` names the
    cluster that an empty directory joins; without it it is a new one. Raises ServiceError.
    """
    runtime, library = java(), jars()
    directory = directory.resolve()
    with explained(f"preparing {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        process.need_space(directory)
        earlier = process.recall(directory) or {}
        port = process.claim_port(port, earlier.get("port"), "Kafka")
        secure_port = process.free_port()
        text = _properties(directory, port, process.free_port(), secured, secure_port)
        # The last of two lines with the same name holds.
        text += "".join(f"{name}={value}\n" for name, value in (extra or {}).items())
        (directory / "server.properties").write_text(text, "utf-8")
        command = [runtime, f"-Xmx{HEAP}", "-XX:TieredStopAtLevel=1"]
        command += [f"-Dkafka.logs.dir={directory}", "-Djava.awt.headless=true"]
        command += ["-XX:-UsePerfData", f"-Djava.io.tmpdir={_emptied(directory / 'tmp')}"]
        command += [f"-Dlog4j2.configurationFile={infra() / 'kafka' / 'log4j2.properties'}"]
        command += ["-cp", f"{library}/*"]
        _format(command, directory, secured, cluster or cluster_id())
    logs = (directory / "kafka.log", directory / "kafka.out")
    child = process.serve(
        [*command, "kafka.Kafka", str(directory / "server.properties")],
        logs[1],
        directory,
        {"port": port},
        die_with_parent=die_with_parent,
    )
    secure = f"127.0.0.1:{secure_port}" if secured else None
    return Broker(child, f"127.0.0.1:{port}", secure, logs)


def _emptied(place: Path) -> Path:
    """Where Java lays out what it loads. A broker that is killed leaves that behind, so it is not
    put among everybody's temporary files."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def running(directory: Path) -> Broker | None:
    """The broker that an earlier command started in `directory`, if it still runs."""
    found = process.running(directory)
    if found is None:
        return None
    child, record = found
    return Broker(child, f"127.0.0.1:{record['port']}", None, (directory / "kafka.log",))


def await_broker(broker: Broker, name: str, patience_s: float) -> None:
    """Return when the broker serves metadata; stop it and raise ServiceError when it does not."""
    deadline = time.monotonic() + patience_s
    try:
        while not answers(broker.bootstrap):
            if not process.alive(broker.child):
                said = process.tail(*broker.logs)
                raise ServiceError(f"{name} ended while starting:\n{said}\n", remedy=_hint(said))
            if time.monotonic() > deadline:
                said = process.tail(*broker.logs)
                raise ServiceError(f"{name} does not answer after {patience_s:.0f} s:\n{said}\n")
            time.sleep(0.1)
    except BaseException:
        # Ctrl-C too: what does not answer is not left behind.
        process.stop(broker.child, 0)
        raise


def _hint(said: str) -> str | None:
    """What to do about the causes that are met most."""
    if "No space left on device" in said:
        return "The disk is full: free some space, or choose another place with --dir"
    if "Address already in use" in said:
        return "Another process took the port: try again, or name another port"
    if "OutOfMemoryError" in said or "Cannot allocate memory" in said:
        return f"Kafka needs {HEAP} of heap: stop something"
    return None


def answers(bootstrap: str) -> bool:
    """Whether a broker at this plain address knows of itself (short wait, no log noise)."""
    import socket

    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    host, _, port = bootstrap.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        return bool(client.list_topics(timeout=5).brokers)
    except KafkaException:
        return False

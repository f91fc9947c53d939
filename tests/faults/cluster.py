"""Three Kafka nodes as processes, each broker and controller at once.

In: a directory. Out: a bootstrap address that names all three, and nodes to kill and start again.
Does not know topics' contents, workers or Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.dev.kafka import Broker

NODES = (1, 2, 3)
PATIENCE_S = 120.0
SESSION: Final = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
"""A node that is silent for so long is dead to the controller; Kafka's own choice is 9 s. For as
long a node that was killed is refused when it comes back, one that is alone, too."""


class Cluster:
    """Brokers 1, 2 and 3. Replication 3 and `min.insync.replicas=2` unless a topic says other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = {node: process.free_port() for node in NODES}
        self._controllers = {node: process.free_port() for node in NODES}
        self._cluster = kafka_server.cluster_id()
        self._nodes: dict[int, Broker] = {}
        for node in NODES:
            self._launch(node)
        for node in NODES:
            kafka_server.await_broker(self._nodes[node], f"node {node}", PATIENCE_S)
        self._until(lambda: len(self._admin().list_topics(timeout=5).brokers) == len(NODES))

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _launch(self, node: int) -> None:
        port, controller = self._ports[node], self._controllers[node]
        voters = ",".join(f"{each}@127.0.0.1:{at}" for each, at in self._controllers.items())
        extra = {
            "node.id": str(node),
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.voters": voters,
            "offsets.topic.replication.factor": "3",
            **SESSION,
            "replica.lag.time.max.ms": "3000",
            # A stale replica is elected where it may be, and soon: the check comes every 5 minutes.
            "unclean.leader.election.interval.ms": "500",
            # Election of a new controller, after one is lost.
            "controller.quorum.fetch.timeout.ms": "1500",
            "controller.quorum.election.timeout.ms": "500",
        }
        self._nodes[node] = kafka_server.launch(
            self._directory / f"node{node}",
            port=port,
            extra=extra,
            cluster=self._cluster,
            die_with_parent=True,
        )

    def kill(self, node: int) -> None:
        """`kill -9`."""
        process.stop(self._nodes[node].child, 0)

    def start(self, node: int) -> None:
        """Come back with what the disk holds; returns when it answers."""
        self._launch(node)
        kafka_server.await_broker(self._nodes[node], f"node {node}", PATIENCE_S)

    def state(self, topic: str) -> dict[int, tuple[int, list[int]]]:
        """Leader (-1: none) and replicas in sync of each partition."""
        # A client that has seen a node die may wait for that node; a new one asks who answers.
        found = self._admin().list_topics(topic, timeout=10).topics[topic].partitions
        return {each.id: (each.leader, sorted(each.isrs)) for each in found.values()}

    def leader(self, topic: str, partition: int) -> int:
        """Who leads a partition now."""
        return self.state(topic)[partition][0]

    def whole(self, topics: Sequence[str]) -> None:
        """Wait until every replica is in sync again."""
        self._until(
            lambda: all(
                isr == list(NODES) for topic in topics for _, isr in self.state(topic).values()
            )
        )

    def led_by(self, topic: str, node: int) -> None:
        """Wait until a node leads every partition of a topic."""
        self._until(lambda: all(each[0] == node for each in self.state(topic).values()))

    def without(self, topic: str, node: int) -> None:
        """Wait until every partition of a topic has a leader and does without a node."""
        self._until(
            lambda: all(
                leader > 0 and leader != node and node not in isr
                for leader, isr in self.state(topic).values()
            )
        )

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if done():
                    return
            except KafkaException:
                pass
            assert time.monotonic() < deadline, "the cluster does not settle"
            time.sleep(0.1)

    def place_anew(self, topic: str, partitions: int, nodes: Sequence[int]) -> None:
        """Make a topic again, on these nodes only; one replica is enough, even a stale one."""
        admin = self._admin()
        for future in admin.delete_topics([topic], operation_timeout=30).values():
            future.result()
        self._until(lambda: topic not in admin.list_topics(timeout=5).topics)
        config = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
        config["message.timestamp.type"] = "LogAppendTime"
        new = NewTopic(
            topic, partitions, replica_assignment=[list(nodes)] * partitions, config=config
        )
        for future in admin.create_topics([new], operation_timeout=30).values():
            future.result()

    def stop(self) -> None:
        for node in self._nodes.values():
            process.stop(node.child, 0)


@contextmanager
def three_nodes(directory: Path) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    cluster = Cluster(directory)
    try:
        yield cluster
    finally:
        cluster.stop()

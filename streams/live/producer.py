"""aiokafka's idempotent producer in a thread of its own, with a barrier.

In: record batches. Out: they are in Kafka when `send` returns, each at least once and in order.
Does not know what a batch holds. Used by one thread at a time.

aiokafka repeats what may be repeated for as long as it takes, and the brokers drop what comes
twice. So there is one deadline here, and after any failure the producer is dropped: the next one
has another id, and what the old one had sent may be there, too. A broker that knows no idempotent
producers gets a plain one: order and delivery are the same, but a repeat may be there twice.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import aiokafka
from aiokafka import errors

from streams.connect import aiokafka_config
from streams.errors import BrokerError
from streams.live.records import RecordBatch
from streams.settings import Settings

REQUEST_TIMEOUT_S: Final = 10.0
"""How long one request may take before it is made again on another connection."""
TOPIC_WAIT_S: Final = 3.0
"""How long a topic that does not exist may be about to appear."""
PAUSE_S: Final = 0.1
CLOSE_TIMEOUT_S: Final = 0.5
GRACE_S: Final = 5.0
"""Past its deadline the thread itself does not answer."""

KEPT: Final = "Nothing is lost: a worker that starts then sends what waits"
TOO_LARGE: Final = (
    "Raise it for this topic, and message.max.bytes of the brokers, to what infra/kafka has."
    f" {KEPT}"
)
UNCONFIRMED: Final = f'Look at the brokers ("The outbox waits" in infra/runbook.md). {KEPT}'

_logger = logging.getLogger(__name__)

Pack = Callable[[Mapping[str, int]], Sequence[RecordBatch]]
"""From each topic's number of partitions to batches, those of one partition in order."""


class BatchProducer:
    """Connects at the first `send`."""

    def __init__(self, settings: Settings, patience_s: float) -> None:
        self._config = aiokafka_config(settings)
        self._patience_s = patience_s
        self._numbered = True
        """Whether the broker gives producers a number, as Kafka does; the embedded one does not."""
        self._producer: aiokafka.AIOKafkaProducer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def send(self, topics: Iterable[str], pack: Pack) -> None:
        """Return when the brokers have everything. Raises BrokerError, in `patience_s` at most."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="producer", daemon=True
            )
            self._thread.start()
        try:
            self._call(self._send(list(topics), pack), self._patience_s + GRACE_S)
        except TimeoutError:
            raise self._unconfirmed() from None

    def close(self) -> None:
        """Let the connections go; what is not confirmed is given up."""
        if self._loop is None or self._thread is None:
            return
        with suppress(TimeoutError):
            self._call(self._drop(CLOSE_TIMEOUT_S), 2 * CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._loop = None

    def _call(self, work: Coroutine[Any, Any, None], timeout_s: float) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _send(self, topics: Sequence[str], pack: Pack) -> None:
        waiting: dict[asyncio.Future[Any], str] = {}
        try:
            async with asyncio.timeout(self._patience_s):
                producer = await self._started()
                counts = {topic: await _partitions(producer.client, topic) for topic in topics}
                for batch in pack(counts):
                    sent = await producer.send_batch(batch, batch.topic, partition=batch.partition)
                    waiting[sent] = batch.topic
                if waiting:
                    await asyncio.wait(waiting)
            for each, topic in waiting.items():
                if isinstance(each.exception(), errors.MessageSizeTooLargeError):
                    raise BrokerError(
                        "Kafka did not take a message: it is larger than max.message.bytes",
                        topic=topic,
                        remedy=TOO_LARGE,
                    )
                each.result()
        except TimeoutError:
            gone = self._gone(waiting)
            await self._drop(0.0)
            if gone is not None:
                raise _broker_error(errors.UnknownTopicOrPartitionError(gone)) from None
            raise self._unconfirmed() from None
        except errors.KafkaError as error:
            await self._drop(0.0)
            raise _broker_error(error) from None

    async def _started(self) -> aiokafka.AIOKafkaProducer:
        while self._producer is None:
            producer = aiokafka.AIOKafkaProducer(
                **self._config,
                enable_idempotence=self._numbered,
                acks="all",
                request_timeout_ms=int(min(self._patience_s, REQUEST_TIMEOUT_S) * 1000),
            )
            # The time of one request is also how long it keeps a batch whose partition nobody
            # leads, as while a lone broker shuts down in order and starts again; and how long it
            # lets a batch wait for one before it of its partition.
            assert producer._message_accumulator._batch_ttl <= REQUEST_TIMEOUT_S  # as in 0.14.0
            producer._message_accumulator._batch_ttl = self._patience_s
            assert producer._request_timeout_ms <= REQUEST_TIMEOUT_S * 1000
            producer._request_timeout_ms = self._patience_s * 1000
            try:
                await producer.start()
            except errors.UnknownError:
                if not self._numbered:
                    raise
                self._numbered = False
                _logger.warning("this broker numbers no producers: it cannot drop what comes twice")
            except errors.KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                self._producer = producer
            finally:
                if self._producer is None:
                    await producer.stop()
        return self._producer

    def _unconfirmed(self) -> BrokerError:
        said = f"Kafka did not confirm what was sent in {self._patience_s:.0f} s"
        return BrokerError(said, remedy=UNCONFIRMED)

    def _gone(self, waiting: Mapping[asyncio.Future[Any], str]) -> str | None:
        """A topic that brokers were to confirm something of, and no longer know."""
        if self._producer is None:
            return None
        cluster = self._producer.client.cluster
        known: Callable[[str], object] = cluster.partitions_for_topic
        topics = {topic for sent, topic in waiting.items() if not sent.done()}
        topics -= set(cluster.unauthorized_topics)  # not seen, which is not gone
        return next((each for each in sorted(topics) if known(each) is None), None)

    async def _drop(self, patience_s: float) -> None:
        """Stop the producer; nothing of it goes on in this thread afterwards."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        stopping = asyncio.ensure_future(producer.stop())
        await asyncio.wait({stopping}, timeout=patience_s)
        # It waits for what is not confirmed, and its parts wait for each other.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await producer.client.close()


async def _partitions(client: Any, topic: str) -> int:
    """How many partitions a topic has. Raises aiokafka's errors."""
    found = client.cluster.partitions_for_topic(topic)
    if found is not None:
        return len(found)
    client.add_topic(topic)
    loop = asyncio.get_running_loop()
    answered: float | None = None
    while True:
        if await client.force_metadata_update():
            found = client.cluster.partitions_for_topic(topic)
            if found is not None:
                return len(found)
            if topic in client.cluster.unauthorized_topics:
                raise errors.TopicAuthorizationFailedError(topic)
            answered = answered or loop.time()
            if loop.time() - answered > TOPIC_WAIT_S:
                raise errors.UnknownTopicOrPartitionError(topic)
        await asyncio.sleep(PAUSE_S)


def _broker_error(error: errors.KafkaError) -> BrokerError:
    remedy = None
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        remedy = "`fraudstream topics create` makes the topics"
    elif isinstance(
        error, errors.TopicAuthorizationFailedError | errors.ClusterAuthorizationFailedError
    ):
        remedy = f"Let the worker's user write it; docs/security.md has the rights. {KEPT}"
    return BrokerError(f"Kafka did not take a message: {error!r}", remedy=remedy)

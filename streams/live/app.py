"""One worker process, put together: settings in, exit code out.

In: Settings. Out: a running worker, until it is told to stop (exit 0: SIGTERM, Ctrl-C, a closed
terminal) or a crash (exit 1, its cause logged).
Does not know how any part does its work.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Final, cast

from prometheus_client import start_http_server

from streams import alerts, assembly, topics
from streams.assembly import Judge
from streams.connect import check_kafka, check_redis, redis_client
from streams.errors import ConfigError, FraudstreamError
from streams.live.agents import Round, warm
from streams.live.ahead import check_room
from streams.live.failpoint import Failpoint
from streams.live.fetch import fetching
from streams.live.intake import Intake
from streams.live.microbatch import MicroBatchApp, RangeConsumer, make_app
from streams.live.outbox import Outbox
from streams.live.partitions import Partitions
from streams.live.patience import Patience
from streams.live.quiet import hush, quiet
from streams.live.risk_agent import check_topics
from streams.live.risk_process import RiskProcess
from streams.live.risk_source import RiskSource
from streams.live.risk_store import RiskStore
from streams.live.rule_source import RuleSource
from streams.live.suspects import Notes, RedisNotes, Suspects
from streams.live.watchdog import Signs, Stalled, Watchdog
from streams.metrics import Metrics
from streams.risk_pace import Pace
from streams.rules import RuleSet
from streams.settings import Settings
from streams.settle import Policy
from streams.signals import endings
from streams.store import Identity, Store
from streams.store.redis import RedisStore

STOP_TIMEOUT_S: Final = 4.0
"""For an orderly stop: the round going on, its acks, the last commit, goodbye to the group."""
LAST_S: Final = 8.0
"""After this from the begin of the stop the process ends, whatever hangs."""
REPORT_EVERY_S: Final = 1.0
GC_THRESHOLD: Final = 100_000
"""Objects made and not yet let go."""
_logger = logging.getLogger(__name__)


def topic_identity(settings: Settings, policy: Policy) -> Identity:
    """What Kafka says of the transactions topic, and who asks. Raises BrokerError."""
    topic_id, partitions = topics.describe(settings, "transactions")
    decides = f"{policy.thresholds}, rules {policy.rules.digest if policy.rules.rules else 'none'}"
    return Identity(topic_id, partitions, policy.versions["model"], decides)


@dataclass(slots=True)
class Worker:
    """The parts that `serve` needs."""

    app: MicroBatchApp
    intake: Intake
    outbox: Outbox
    patience: Patience
    metrics: Metrics
    thread: ThreadPoolExecutor
    risk: RiskSource | None
    watchdog_s: float
    stalled: Stalled | None = None

    @property
    def failed(self) -> BaseException | None:
        """What ended it that was not asked for."""
        return self.stalled or self.app.crash_reason


def assemble(
    settings: Settings,
    judge: Judge,
    store: Store,
    notes: Notes,
    *,
    risk: RiskSource | None = None,
    rules: Callable[[], RuleSet] | None = None,
) -> Worker:
    """Put a worker together, before a partition is claimed."""
    warm(judge.scorer, judge.policy)
    metrics = Metrics()
    failpoint = Failpoint(settings.worker.failpoint)
    patience = Patience(settings.worker.retry_s, metrics)
    outbox = Outbox(settings, alerts.rendered)
    metrics.outbox.set_function(lambda: outbox.waiting)
    partitions = Partitions(
        store,
        outbox,
        Suspects(notes, settings.worker.quarantine_after, settings.worker.batch_events),
        lambda: topic_identity(settings, judge.policy),
        settings.topic("transactions"),
        settings.worker.arena_mb * 1_048_576,
        patience,
        metrics,
    )
    round_ = Round(
        partitions,
        store,
        outbox,
        judge.scorer,
        _policy(judge, rules),
        risk,
        max_future_ms=settings.worker.max_future_s * 1000,
        patience=patience,
        failpoint=failpoint,
        metrics=metrics,
    )
    thread = ThreadPoolExecutor(1, thread_name_prefix="rounds")
    intake = Intake(
        partitions,
        round_.run,
        thread,
        round_events=settings.worker.batch_events,
        failpoint=failpoint,
        metrics=metrics,
        crash=lambda reason: app.crash(reason),
        consumer=lambda: cast(RangeConsumer, app.consumer),
    )
    app: MicroBatchApp = make_app(settings, intake)
    topic = app.topic(
        settings.topic("transactions"),
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )
    app.agent(topic, name="score-transactions")(intake.work)
    return Worker(app, intake, outbox, patience, metrics, thread, risk, settings.worker.watchdog_s)


def _policy(judge: Judge, rules: Callable[[], RuleSet] | None) -> Callable[[], Policy]:
    """The policy of a round: the judge's, with the rules in force at that moment."""
    current = judge.policy

    def policy() -> Policy:
        nonlocal current
        now = judge.policy_now()
        found = now.rules if rules is None else rules()
        if current.rules is not found or current.mode is not now.mode:
            current = replace(now, rules=found)
        return current

    return policy


async def serve(
    worker: Worker,
    ready: Callable[[], None] = lambda: None,
    stopping_too: Callable[[], None] = lambda: None,
) -> BaseException | None:
    """Run until a signal or a crash; return what crashed it. `stopping_too` is called when the
    stop begins, for what ends beside it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    # Not the loop's own handlers: with those the end of the loop would put Python's back.
    before = {number: signal.signal(number, asked) for number in endings()}
    app = worker.app
    app.loop = loop

    def crash(reason: Stalled) -> None:
        _logger.critical("%s", reason)
        worker.stalled = worker.stalled or reason
        loop.call_soon_threadsafe(stop.set)

    watchdog = Watchdog(worker.watchdog_s, crash)
    starting = asyncio.ensure_future(app.start())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            watchdog.start()
            announced = False
            while not (stop.is_set() or app.crashed):
                if not announced and worker.intake.assigned:
                    announced = True
                    ready()
                watchdog.report(_signs(worker))
                await asyncio.wait({stopping}, timeout=REPORT_EVERY_S if announced else 0.05)
    finally:
        stopping_too()
        worker.patience.stop()
        if worker.risk is not None:
            worker.risk.stop()
        reason = worker.failed
        if isinstance(reason, FraudstreamError):
            # It is told to the user; what Faust says of parts that broke with it hides the cause.
            hush()
        starting.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await starting
        try:
            await asyncio.wait_for(_let_go(worker), STOP_TIMEOUT_S)
        except TimeoutError:
            _logger.warning("did not stop in %.0f s; what goes on is left", STOP_TIMEOUT_S)
        except (Exception, asyncio.CancelledError) as error:
            # Parts of Faust that broke with the rest, or were cancelled, must not hide what broke
            # first.
            if reason is None:
                raise
            told = isinstance(reason, FraudstreamError)
            _logger.log(logging.DEBUG if told else logging.INFO, "while stopping: %r", error)
        watchdog.stop()
        for number, handler in before.items():
            if signal.getsignal(number) is asked:
                signal.signal(number, handler)
    return reason


async def _let_go(worker: Worker) -> None:
    worker.intake.close_all()
    try:
        await worker.app.stop()
    finally:
        try:
            await worker.intake.leave()
        finally:
            await asyncio.get_running_loop().run_in_executor(None, worker.outbox.close)


def _signs(worker: Worker) -> Signs:
    lag = worker.intake.lag()
    worker.metrics.set_lag(lag)
    given_up = worker.intake.given_up.values()
    return Signs(
        waiting=sum(lag.values()),
        rounds=worker.intake.rounds,
        excused=worker.patience.waiting
        or worker.outbox.waiting > 0
        or (worker.risk is not None and worker.risk.waiting),
        given_up=time.monotonic() - min(given_up) if given_up else 0.0,
    )


def run(
    settings: Settings,
    ready: Callable[[], None] = lambda: None,
    asked: Callable[[], bool] = lambda: False,
) -> int:
    """Run one worker in this process; the exit code is its result. Raises what forbids a start, and
    KeyboardInterrupt where `asked` knows of a stop while it started: one may have been lost."""
    quiet(settings)
    check_room(settings.worker.arena_mb)
    check_kafka(settings)
    with ExitStack() as kept:
        client = redis_client(settings)
        kept.callback(client.close)
        check_redis(settings, client)
        store = RedisStore(
            client,
            settings.redis.namespace,
            require_durable=settings.redis.require_durable,
        )
        store.check()
        about = check_topics(settings) if settings.risk.enabled else ""
        # What may refuse the start does so before another process is started.
        judge = assembly.judge(settings)
        rules = kept.enter_context(RuleSource(settings, assembly.rule_book(settings)))
        risk = None
        ask_builder: Callable[[], None] = lambda: None  # noqa: E731
        if settings.risk.enabled:
            ask_builder = kept.enter_context(RiskProcess(settings)).ask
            snapshots = RiskStore(client, settings.redis.namespace)
            risk = RiskSource(snapshots, about, Pace.of(settings.risk), settings.risk.wait_s)
        notes = RedisNotes(client, settings.redis.namespace)
        worker = assemble(settings, judge, store, notes, risk=risk, rules=rules.rules)
        if asked():
            raise KeyboardInterrupt
        if settings.metrics.port:
            kept.callback(_metrics_server(settings, worker.metrics))
        collect_seldom()
        last = threading.Timer(LAST_S, _end, [worker])
        last.daemon = True

        def stopping() -> None:
            # A second signal must not break the stop off: LAST_S ends it.
            for number in endings():
                signal.signal(number, signal.SIG_IGN)
            ask_builder()
            last.start()

        reason = asyncio.run(serve(worker, ready, stopping))
        worker.thread.shutdown(wait=False, cancel_futures=True)
        if worker.intake.in_thread or fetching():
            # Python would wait for the thread, which waits for a server that does not answer.
            bug = None if isinstance(reason, FraudstreamError) else reason
            _logger.critical(
                "a step hangs; ending without it (%s)", reason or "asked", exc_info=bug
            )
            logging.shutdown()
            os._exit(0 if reason is None else 1)
    last.cancel()
    if reason is None:
        return 0
    if isinstance(reason, FraudstreamError):
        raise reason
    _logger.critical("crashed", exc_info=reason)
    return 1


def _metrics_server(settings: Settings, metrics: Metrics) -> Callable[[], None]:
    """Serve the metrics; returns what ends it. Raises ConfigError when nobody can listen there."""
    host, port = settings.metrics.host, settings.metrics.port
    try:
        server, _ = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ConfigError(
            f"nobody can listen at metrics.host {host}, metrics.port {port}: {error.strerror}",
            remedy="give this worker another metrics.port, or 0 for no metrics",
        ) from None
    return server.shutdown


def _end(worker: Worker) -> None:
    """The end of a stop that does not end: Faust waits in the event loop itself for its thread, and
    that for a broker that does not answer. What was not committed will be read again."""
    _logger.critical("did not stop in %.0f s; ending", LAST_S)
    logging.shutdown()
    os._exit(0 if worker.failed is None else 1)


def collect_seldom() -> None:
    """Set the garbage collector up for batches: what is loaded now stays for ever, and thousands
    of objects come and go with each round, hardly any in cycles. It took 5 % of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)

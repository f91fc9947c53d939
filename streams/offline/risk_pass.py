"""The first pass of a replay: the risk snapshots of all periods, the one exchange between shards.

In: a source. Out: a directory of snapshots and `index.json`, and per shard the view on them.
Does not know the pipeline. It feeds the same builder as the live risk agent, partitions side by
side in event time, so that memory holds a few weeks and not the whole source. All labels of a
source are known to it beforehand; each counts only from its own label_time on.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from model.disk import into_place
from model.errors import writing
from streams.columns import Columns
from streams.decode import decode
from streams.errors import RecordingError
from streams.offline.engine import Tell
from streams.offline.source import Source, decoded
from streams.risk import RiskView, Sheet, digest_of, kind
from streams.risk_feed import RiskFeed
from streams.risk_pace import Pace
from streams.settings import Settings

BATCH = 8_192
SHEETS = 40
"""Snapshots of periods kept in memory by a shard."""


class ShardRisk:
    """One shard's look at the snapshots; loads the periods that its events need."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._sheets: OrderedDict[int, Sheet] = OrderedDict()

    def view(self, columns: Columns) -> RiskView | None:
        """The snapshots for the periods of these events."""
        named = self._snapshots.periods
        periods = [each for each in self._snapshots.pace.needed([columns]) if each in named]
        for period in periods:
            if period not in self._sheets:
                self._sheets[period] = self._snapshots.sheet(named[period])
            self._sheets.move_to_end(period)
        view = RiskView(
            self._snapshots.pace,
            {period: self._sheets[period] for period in periods},
            self._snapshots.front,
        )
        while len(self._sheets) > SHEETS:
            self._sheets.popitem(last=False)
        return view


@dataclass(frozen=True)
class Snapshots:
    """All snapshots of a source. `front`: the newest period decided; None when risk is off."""

    directory: Path
    pace: Pace
    front: int | None = None
    periods: Mapping[int, str] = field(default_factory=dict)

    def risk_for(self, shard: int) -> ShardRisk | None:
        """A view for one shard; None when there is nothing to look up."""
        return None if self.front is None else ShardRisk(self)

    def sheet(self, version: str) -> Sheet:
        """A snapshot ready for look-ups. Raises RecordingError when its file is gone."""
        path = self.directory / f"{version}.bin"
        try:
            return Sheet.of(path.read_bytes(), version)
        except FileNotFoundError:
            raise RecordingError(f"risk snapshot {path} is missing") from None


def build(
    source: Source, settings: Settings, directory: Path, tell: Tell = lambda messages: None
) -> Snapshots:
    """Build the snapshots, or read them if this directory already has those of this source."""
    pace = Pace.of(settings.risk)
    if not settings.risk.enabled:
        return Snapshots(directory, pace)
    about = {"source": source.identity(), **kind(pace)}
    index = directory / "index.json"
    if index.exists():
        known = orjson.loads(index.read_bytes())
        if known["about"] == about:
            return _opened(directory, pace, known)
    directory.mkdir(parents=True, exist_ok=True)
    shards = source.shards()
    feed = RiskFeed(pace, dict.fromkeys(shards, 0), {0: 0})
    feed.add_labels(0, decoded(source), 0, 1)
    periods: dict[str, str] = {}
    max_future_ms = settings.worker.max_future_s * 1_000
    open_shards = set(shards)
    for columns in _side_by_side(source, max_future_ms, open_shards):
        feed.add(columns)
        tell(len(columns.batch))
        due = feed.ready(set(shards) - open_shards)
        periods.update(_built(feed, due, directory))
    periods.update(_built(feed, feed.newest, directory))
    known = {"about": about, "front": feed.front, "periods": periods}
    write_whole(index, orjson.dumps(known, option=orjson.OPT_SORT_KEYS))
    return _opened(directory, pace, known)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whenever the process or the machine ends."""
    draft = path.with_name(path.name + ".part")
    with writing(path):
        draft.write_bytes(content)
        into_place(draft, path)


def _opened(directory: Path, pace: Pace, known: dict[str, Any]) -> Snapshots:
    periods = {int(period): version for period, version in known["periods"].items()}
    return Snapshots(directory, pace, known["front"], periods)


def _built(feed: RiskFeed, until: int, directory: Path) -> dict[str, str]:
    """Write the snapshots that are due; their versions by period."""
    found = {}
    for snapshot in feed.snapshots(until):
        content = snapshot.to_bytes()
        version = digest_of(content)
        write_whole(directory / f"{version}.bin", content)
        found[str(snapshot.period)] = version
    return found


def _side_by_side(source: Source, max_future_ms: int, open_shards: set[int]) -> Iterator[Columns]:
    """Decoded batches of all shards, the one furthest behind in event time next.

    A shard leaves `open_shards` when it is read to its end.
    """
    heap: list[tuple[int, int]] = []
    streams = {shard: source.batches(shard, BATCH) for shard in sorted(open_shards)}
    heap = [(0, shard) for shard in streams]
    heapq.heapify(heap)
    while heap:
        behind, shard = heapq.heappop(heap)
        batch = next(streams[shard], None)
        if batch is None:
            open_shards.discard(shard)
            continue
        columns = decode(batch, max_future_ms)
        newest = int(columns.event_time.max()) if len(columns) else behind
        heapq.heappush(heap, (max(behind, newest), shard))
        yield columns

"""What a comparison of live and replay found: its differences, counted, and the first of them.

In: differences, shard by shard. Out: JSON, or text for a person.
Does not know how two scores are compared (`verify.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

REMARKS: Final = {
    "stale_risk": "used another risk snapshot than a replay builds, as they say",
    "erased": "are of accounts erased since, and left out",
    "put_aside": "messages were put aside because they killed every worker, and are left out",
    "unscored": "transactions at the end were not scored yet",
    "passed_over": "messages among the scores and alerts are neither, and are passed over",
}
COUNTS: Final = ("compared", *REMARKS)


@dataclass(frozen=True, slots=True)
class Difference:
    """One transaction that came out differently; `live` or `replay` is None where it is absent."""

    partition: int
    offset: int
    cause: str
    detail: str
    live: dict[str, Any] | None
    replay: dict[str, Any] | None

    def when(self) -> tuple[int, int, int]:
        """Place in event time: the first difference is where the trouble began."""
        shown = self.live or self.replay
        assert shown is not None
        return shown["event_time"], self.partition, self.offset


@dataclass(slots=True)
class Verdict:
    """What the comparison found.

    models:     scores compared, by the model that they name
    stale_risk: scores made with another risk snapshot than a replay builds, or with none, as they
                say: the older one after a wait, or what was built before the payments came
    erased:     scores of accounts that were erased since; there is nothing to compare them with
    put_aside:  messages that killed every worker, and are left out here as they were live
    unscored:   transactions after the last one scored of their partition: the service had still to
                come to them when its scores were recorded
    passed_over: messages on the topics of scores and alerts that the service does not write
    start:      `empty`, or `snapshot` where the state began with one
    late_start: the recording does not begin with the log, and there was no state to begin with
    """

    compared: int = 0
    models: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    first: Difference | None = None
    around: list[dict[str, Any]] = field(default_factory=list)
    stale_risk: int = 0
    erased: int = 0
    put_aside: int = 0
    unscored: int = 0
    passed_over: int = 0
    start: str = "empty"
    late_start: bool = False

    @property
    def equal(self) -> bool:
        """Whether live and replay agree byte for byte."""
        return not self.causes

    def note(self, difference: Difference) -> None:
        """Count one; the earliest in event time is kept."""
        self.causes[difference.cause] += 1
        if self.first is None or difference.when() < self.first.when():
            self.first = difference

    def add(self, other: Verdict) -> None:
        """Take up what another shard's comparison found."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.causes += other.causes
        self.models += other.models
        self.late_start |= other.late_start
        first = other.first
        if first is not None and (self.first is None or first.when() < self.first.when()):
            self.first = first

    def to_bytes(self) -> bytes:
        """All of it, for another process."""
        return orjson.dumps(self)

    @classmethod
    def of(cls, content: bytes) -> Verdict:
        """What `to_bytes` wrote."""
        told = orjson.loads(content)
        first = told.pop("first")
        told["first"] = None if first is None else Difference(**first)
        told["causes"], told["models"] = Counter(told["causes"]), Counter(told["models"])
        return cls(**told)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "equal": self.equal,
            "compared": self.compared,
            "differences": sum(self.causes.values()),
            "causes": dict(self.causes),
            "models": dict(self.models),
            "start": self.start,
            **{name: getattr(self, name) for name in COUNTS[1:]},
            "first": None if self.first is None else asdict(self.first),
            "around": self.around,
        }

    def text(self) -> str:
        """For a person at a terminal."""
        head = f"{self.compared:,} scores compared, {sum(self.causes.values()):,} differ"
        for name, said in REMARKS.items():
            if count := getattr(self, name):
                head += f"; {count:,} {said}"
        if len(self.models) > 1:
            counts = ", ".join(f"{count:,} by {model}" for model, count in self.models.items())
            head += f"\nscores of several models: {counts}"
        if self.first is None:
            return head
        if self.late_start:
            head += (
                "\nthe recording does not begin with the log, and the state began empty: give "
                "--snapshot a state from before it"
            )
        first = self.first
        causes = ", ".join(f"{count:,} {cause}" for cause, count in self.causes.most_common())
        lines = [head, f"causes: {causes}"]
        lines.append(
            f"first: partition {first.partition}, offset {first.offset}, cause {first.cause}: "
            f"{first.detail}"
        )
        lines += [f"  live    {first.live}", f"  replay  {first.replay}", "the account's events:"]
        for row in self.around:
            mark = ">" if row["offset"] == first.offset else " "
            lines.append(
                f"{mark} offset {row['offset']}, time {row['event_time']}, amount {row['amount']}, "
                f"transaction {row['transaction_id']}"
            )
        return "\n".join(lines)

"""How late and how often risk snapshots tell, and which period an event belongs to.

In: the two settings, event and append times. Out: numbers of periods. Does not know what a snapshot
holds; docs/risk.md is the contract.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from streams.columns import Columns
from streams.schema import DAY_MS

if TYPE_CHECKING:
    from streams.sections import RiskSettings

HOURS_A_DAY: Final = 24


@dataclass(frozen=True, slots=True)
class Pace:
    """Payments count after `delay` days. Time is cut into periods of `hours` hours, a divisor of
    24, numbered from 1970 on, UTC; each has a snapshot, of what was known when it began."""

    delay: int
    hours: int = HOURS_A_DAY

    @classmethod
    def of(cls, settings: RiskSettings) -> Pace:
        """As the settings say."""
        return cls(settings.delay_days, settings.period_hours)

    def told(self) -> dict[str, int]:
        """By the names of the settings. What a model is told of merchants depends on it."""
        return {"delay_days": self.delay, "period_hours": self.hours}

    @property
    def ms(self) -> int:
        """The length of a period."""
        return self.hours * (DAY_MS // HOURS_A_DAY)

    def periods(self, days: int) -> int:
        """So many days in periods."""
        return days * HOURS_A_DAY // self.hours

    def counted_until(self, period: int) -> int:
        """The snapshot of this period counts the payments of periods before the one returned."""
        return period - self.periods(self.delay)

    def of_times(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The periods of these times (ms)."""
        return np.asarray(times // self.ms, np.int64)

    def of_events(self, columns: Columns) -> NDArray[np.int64]:
        """The period whose snapshot each event is looked up in.

        That of its event_time, but never later than that of its append time where that is known: a
        clock that runs ahead cannot ask for the snapshot of a period that has not begun.
        """
        appended = columns.batch.timestamps[columns.row]
        times = np.where(
            appended >= 0, np.minimum(columns.event_time, appended), columns.event_time
        )
        return self.of_times(times)

    def needed(self, columns: Iterable[Columns]) -> list[int]:
        """The periods whose snapshots these batches are looked up in, ascending."""
        found = [np.unique(self.of_events(each)) for each in columns if len(each)]
        return np.unique(np.concatenate(found)).tolist() if found else []

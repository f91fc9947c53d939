"""How many messages of a source were refused, and why: what nobody sees in figures of the rest.

In: counts. Out: a sentence, a warning, or an error where nothing is left. Does not know how they
were counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from streams.errors import ConfigError
from streams.schema import DAY_MS

LATEST_LABEL_DAYS: Final = 540
"""The outer limit that card schemes set for a chargeback, counted from the payment."""

_logger = logging.getLogger(__name__)


def refused(dead: Mapping[str, int], messages: int) -> str:
    """`dead` holds dead letters by reason code; empty text where there is none."""
    if not dead:
        return ""
    most = sorted(dead.items(), key=lambda item: (-item[1], item[0]))
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in most)
    return f"{sum(dead.values()):,} of {messages:,} messages refused: {reasons} (docs/schema.md)"


def require_accepted(accepted: int, dead: Mapping[str, int], messages: int) -> None:
    """Raise ConfigError where no transaction was accepted."""
    if accepted:
        return
    if not messages:
        raise ConfigError(
            "the source holds no transaction", remedy="record for longer, or name another file"
        )
    why = refused(dead, messages) or f"{messages:,} messages, and no payment among them"
    raise ConfigError(f"no accepted transaction: {why}")


def tell_strange(count: int) -> None:
    """Warn of so many transactions that have a label and were not accepted, or never came."""
    if count:
        _logger.warning("%d transactions with a label are not among the accepted ones", count)


def tell_early(count: int) -> None:
    """Warn of so many labels that are older than what they are about: they count as known at any
    moment."""
    if count:
        _logger.warning("labels older than their transactions: %d. Is label_time right?", count)


def utc(moment_ms: int) -> str:
    """For who reads it."""
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).strftime("%d %B %Y %H:%M UTC")


def tell_far(newest: int, last: int, if_wrong: str) -> None:
    """Warn of a newest label, ms, so long after the last payment that its time may be a slip: where
    nobody says what time it is, that is the time."""
    if newest - last > LATEST_LABEL_DAYS * DAY_MS:
        _logger.warning(
            "the newest label is of %s, %d days after the last payment: as of then every payment"
            " without a label counts as legitimate; if that label_time is wrong, %s",
            utc(newest),
            (newest - last) // DAY_MS,
            if_wrong,
        )

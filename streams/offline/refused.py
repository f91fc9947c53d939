"""How many messages of a source were refused, and why: what nobody sees in figures of the rest.

In: counts. Out: a sentence, a warning, or an error where nothing is left. Does not know how they
were counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from streams.errors import ConfigError

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

"""What would change: the alerts that appear and vanish under other settings, before a release.

In: a job with two settings objects, today's and the proposed ones. Out: counts, money and labels of
the alerts on either side. Does not know which settings differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streams.errors import ConfigError
from streams.labels import FRAUD, LEGITIMATE, LabelBook
from streams.money import amount_text
from streams.offline import results
from streams.offline.engine import Engine
from streams.offline.refused import refused, require_accepted
from streams.offline.run import Job, Progress, replay
from streams.offline.source import decoded
from streams.settings import Settings

DECIDING = {"decide", "model"}
"""Sections that may differ: both sides share one pass of the features."""
SHOWN = 20
"""Alerts listed on each side."""


def whatif(
    job: Job,
    *,
    jobs: int = 1,
    engine: Engine = "processes",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Replay under both settings and compare their alerts.

    Raises ConfigError when more than the decisions would differ, or none is to be made.
    """
    now, then = job.settings
    _check(now, then)
    replayed = replay(job, jobs=jobs, engine=engine, progress=progress)
    dead, messages = replayed["dead"], replayed["messages"]
    require_accepted(replayed["outcomes"].get(results.SCORED, 0), dead, messages)
    book = LabelBook(decoded(job.source))
    columns = ["outcome", "transaction_id", "account_id", "amount", "currency"]
    columns += [f"{name}_{k}" for k in range(2) for name in ("decision", "score")]
    table = results.read(job.out, columns)
    table = table.filter(pc.equal(table["outcome"], results.SCORED))
    flagged = [
        pc.not_equal(table[f"decision_{k}"], "approve").to_numpy(zero_copy_only=False)
        for k in range(2)
    ]
    blocked = [
        pc.equal(table[f"decision_{k}"], "block").to_numpy(zero_copy_only=False) for k in range(2)
    ]
    label, _ = book.newest(table["account_id"], table["transaction_id"])
    appear, vanish = flagged[1] & ~flagged[0], flagged[0] & ~flagged[1]
    more, less = blocked[1] & ~blocked[0], blocked[0] & ~blocked[1]
    return {
        "events": len(table),
        "refused": refused(dead, messages),
        "alerts": {"now": int(flagged[0].sum()), "then": int(flagged[1].sum())},
        "blocked": {"now": int(blocked[0].sum()), "then": int(blocked[1].sum())},
        "appear": _side(table, appear, label),
        "vanish": _side(table, vanish, label),
        # Whoever pays meets the block, whether the alert is new or not: so the two balance with
        # `blocked`, and say how many of theirs are in the sides above, too.
        "become_block": {**_side(table, more, label), "appear": int((more & appear).sum())},
        "no_longer_block": {**_side(table, less, label), "vanish": int((less & vanish).sum())},
    }


def _check(now: Settings, then: Settings) -> None:
    changed = {name for name, section in now if section != getattr(then, name)} - DECIDING
    if changed:
        raise ConfigError(
            f"whatif cannot change {', '.join(sorted(changed))}.*: both sides share one pass",
            remedy="Set decide.* or model.*; for the rest run `fraudstream replay` with each",
        )


def _side(table: pa.Table, chosen: NDArray[np.bool_], label: NDArray[np.int8]) -> dict[str, Any]:
    """Number, money by currency, labels, and the first few of the chosen events."""
    part, verdict = table.filter(pa.array(chosen)), label[chosen]
    return {
        "alerts": len(part),
        "amount": _money(part),
        "fraud": int((verdict == FRAUD).sum()),
        "fraud_amount": _money(part.filter(pa.array(verdict == FRAUD))),
        "legitimate": int((verdict == LEGITIMATE).sum()),
        "not_labelled": int(((verdict != FRAUD) & (verdict != LEGITIMATE)).sum()),
        "first": part["transaction_id"].slice(0, SHOWN).to_pylist(),
    }


def _money(events: pa.Table) -> dict[str, int]:
    """Minor units by currency: sums over several mean nothing."""
    money: dict[str, int] = {}
    currencies, amounts = events["currency"].to_pylist(), events["amount"].to_pylist()
    for currency, minor in zip(currencies, amounts, strict=True):
        money[currency] = money.get(currency, 0) + minor
    return dict(sorted(money.items()))


def text(found: dict[str, Any]) -> str:
    """For a person at a terminal."""
    lines = [
        f"alerts: {found['alerts']['now']:,} now, {found['alerts']['then']:,} then; "
        f"blocked: {found['blocked']['now']:,} now, {found['blocked']['then']:,} then"
    ]
    for side in ("appear", "vanish", "become_block", "no_longer_block"):
        part = found[side]
        money = " and ".join(amount_text(minor, code) for code, minor in part["amount"].items())
        line = (
            f"{side.replace('_', ' ')}: {part['alerts']:,} alerts, {part['fraud']:,} fraud, "
            f"{part['legitimate']:,} legitimate, {part['not_labelled']:,} not labelled; "
            f"in all {money or 'no money'}"
        )
        both = [
            f"; {part[other]:,} of them {other}"
            for other in ("appear", "vanish")
            if part.get(other)
        ]
        lines.append(line + "".join(both))
    return "\n".join(lines)

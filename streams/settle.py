"""The last pure step of a micro-batch: from work and scores to what is to be published.

In: the work of one batch, its scores, and the policy in force. Out: one packed outbox entry
(scores, alerts, dead letters) and counts. Does not know where the entry is kept or sent.

Every message of the batch is accounted for exactly once: a score, a duplicate (counted only), a
dead letter, or an erasure. `counts["in"]` is the sum of the other four.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model.inputs import COUNTS_SHIFT, ScoringBatch
from streams.alerts import alert_id
from streams.columns import Rejected
from streams.deadletter import dead_letter
from streams.decide import DECISIONS, Thresholds, Verdicts, decide, risk_level, threshold_of
from streams.entry import LATE, DeadRow, Entry, pack
from streams.features import INDEX
from streams.reasons import Contributions, reasons
from streams.rules import RuleInput, RuleSet
from streams.schema import Mode, Reject
from streams.windows import APPLIED, DUPLICATE, ID_CONFLICT, Work, scoring_batch

Explain = Callable[[ScoringBatch], Sequence[Contributions]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides, besides the data. `versions` lacks `rules` and `risk`: they are found here.

    explain: the model's contributions by feature group, one mapping an event; None for none
    """

    thresholds: Thresholds
    versions: Mapping[str, str]
    rules: RuleSet = field(default_factory=RuleSet)
    mode: Mode = Mode.FULL
    explain: Explain | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`entry` is None when the batch has nothing to publish."""

    entry: bytes | None
    counts: dict[str, int]


def settle(work: Work, scores: NDArray[np.float64], policy: Policy) -> Outcome:
    """Decide a batch and pack what it publishes. A NaN score means that there is none."""
    columns, n = work.columns, len(work.columns)
    assert scores.shape == (n,) and work.status.shape == (n,) and len(work.digest) == n
    every = bool((work.status == APPLIED).all())
    kept = np.arange(n) if every else np.flatnonzero(work.status == APPLIED)
    matches = policy.rules.match(_rule_input(work, scores)) if policy.rules.rules else []
    verdicts = decide(scores, policy.thresholds, matches)
    versions, version = _versions(work, policy, kept)
    flagged = kept[verdicts.decision[kept] > 0]
    dead = _dead_letters(work)
    counts = _counts(work, verdicts, kept, dead)
    if not (len(kept) or dead):
        return Outcome(None, counts)
    ids, accounts = columns.transaction_id, columns.account_id
    if not every:
        rows = kept.tolist()
        ids, accounts = [ids[row] for row in rows], [accounts[row] for row in rows]
    batch = columns.batch
    entry = Entry(
        topic=batch.topic,
        partition=batch.partition,
        mode=policy.mode.value,
        versions=tuple(versions),
        offsets=batch.offsets[columns.row[kept]],
        event_time=columns.event_time[kept],
        scores=scores[kept],
        digests=work.digest[kept],
        codes=verdicts.decision[kept] + np.uint8(LATE) * work.late[kept].astype(np.uint8),
        version=version,
        transaction_ids=orjson.dumps(ids),
        account_ids=orjson.dumps(accounts),
        alerts=_alerts(work, scores, verdicts, policy, flagged, kept, versions, version),
        dead=dead,
    )
    return Outcome(pack(entry), counts)


def _rule_input(work: Work, scores: NDArray[np.float64]) -> RuleInput:
    columns = work.columns
    return RuleInput(
        docs=columns.docs,
        amount=columns.amount,
        event_time=columns.event_time,
        features=work.features,
        names=INDEX,
        scores=scores,
    )


def _versions(
    work: Work, policy: Policy, kept: NDArray[np.int64]
) -> tuple[list[dict[str, str]], NDArray[np.uint16]]:
    """The versions that rows of this batch carry, and which of them each kept row carries."""
    names = work.risk_versions
    distinct = list(dict.fromkeys(names))
    versions = [
        {
            "model": policy.versions["model"],
            "features": policy.versions["features"],
            "rules": policy.rules.digest,
            "risk": risk,
            "code": policy.versions["code"],
        }
        for risk in distinct
    ]
    if len(distinct) <= 1:
        return versions, np.zeros(len(kept), np.uint16)
    place = {risk: index for index, risk in enumerate(distinct)}
    return versions, np.array([place[names[row]] for row in kept], np.uint16)


def _alerts(
    work: Work,
    scores: NDArray[np.float64],
    verdicts: Verdicts,
    policy: Policy,
    flagged: NDArray[np.int64],
    kept: NDArray[np.int64],
    versions: list[dict[str, str]],
    version: NDArray[np.uint16],
) -> tuple[tuple[int, bytes], ...]:
    """The alerts' own fields, each with its place among the kept rows."""
    if not len(flagged):
        return ()
    explained: Sequence[Contributions | None] = [None] * len(flagged)
    if policy.explain is not None:
        explained = policy.explain(_rows_of(scoring_batch(work), flagged))
    places = np.searchsorted(kept, flagged).tolist()
    found = []
    for row, place, contributions in zip(flagged.tolist(), places, explained, strict=True):
        own = _alert(work, row, scores, verdicts, policy, contributions, versions[version[place]])
        found.append((place, orjson.dumps(own)))
    return tuple(found)


def _rows_of(batch: ScoringBatch, rows: NDArray[np.int64]) -> ScoringBatch:
    return ScoringBatch(
        current=batch.current[rows],
        history=batch.history[rows],
        length=batch.length[rows],
        features=batch.features[rows],
    )


def _alert(
    work: Work,
    row: int,
    scores: NDArray[np.float64],
    verdicts: Verdicts,
    policy: Policy,
    contributions: Contributions | None,
    versions: dict[str, str],
) -> dict[str, Any]:
    columns, decision = work.columns, int(verdicts.decision[row])
    score, threshold = float(scores[row]), threshold_of(decision, policy.thresholds)
    matched = verdicts.rules.get(row, [])
    return {
        "alert_id": alert_id(columns.tenant_id[row], columns.transaction_id[row], versions),
        "amount": int(columns.amount[row]),
        "currency": columns.currency[row],
        "threshold": threshold,
        "risk_level": risk_level(decision, score, policy.thresholds),
        "reasons": reasons(
            work.features[row],
            columns.docs[row],
            bool((int(columns.words[row, 0]) >> COUNTS_SHIFT) & 1),
            score=score,
            threshold=threshold,
            rules=matched,
            contributions=contributions,
        ),
        "rules": [
            {"rule_id": rule.rule_id, "version": rule.version, "outcome": rule.outcome}
            for rule in matched
        ],
    }


def _dead_letters(work: Work) -> tuple[DeadRow, ...]:
    """Rejects, and known ids with other bytes, in offset order."""
    columns = work.columns
    conflicts = np.flatnonzero(work.status == ID_CONFLICT).tolist()
    if not (columns.rejects or conflicts):
        return ()
    detail = "transaction_id is known with another content"
    rejects = columns.rejects + [
        Rejected(int(columns.row[row]), Reject.ID_CONFLICT, detail) for row in conflicts
    ]
    rejects.sort(key=lambda each: each.row)
    return tuple(dead_letter(columns.batch, each) for each in rejects)


def refusals(work: Work) -> Counter[str]:
    """The dead letters of a batch by reason code."""
    found = Counter(each.reason.value for each in work.columns.rejects)
    conflicts = int(np.count_nonzero(work.status == ID_CONFLICT))
    if conflicts:
        found[Reject.ID_CONFLICT.value] += conflicts
    return found


def _counts(
    work: Work, verdicts: Verdicts, kept: NDArray[np.int64], dead: Sequence[DeadRow]
) -> dict[str, int]:
    columns = work.columns
    decided = np.bincount(verdicts.decision[kept], minlength=len(DECISIONS))
    counts = {
        "in": len(columns.batch),
        "scored": len(kept),
        "duplicate": int(np.count_nonzero(work.status == DUPLICATE)),
        "dead": len(dead),
        "erased": len(columns.tombstones),
        "late": int(np.count_nonzero(work.late[kept])),
        "edge": int(np.count_nonzero(work.edge[kept])),
        **{decision.value: int(decided[code]) for code, decision in enumerate(DECISIONS)},
    }
    counts.update({f"dead_{reason}": number for reason, number in refusals(work).items()})
    whole = counts["scored"] + counts["duplicate"] + counts["dead"] + counts["erased"]
    assert whole == counts["in"], "a message is unaccounted for"
    return counts

"""A `Balance` in words: what `audit` and `demo` print at the end.

In: a Balance. Out: lines of plain text. Does not know how it was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streams.clients.audit import Balance

WORDS = {
    "scored": "scored",
    "dead": "dead letters",
    "duplicate": "duplicates",
    "erasure": "erasures",
}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def summary(found: Balance) -> Iterator[str]:
    """The lines."""
    yield f"published     {found.published:>12,}"
    notes = {
        "scored": f"{found.late:,} of them late" if found.late else "",
        "dead": _listed(found.dead_letters),
    }
    sign = "="
    for name, words in WORDS.items():
        note = notes.get(name, "")
        yield f"{sign} {words:<12}{found.headings[name]:>12,}{'   ' + note if note else ''}"
        sign = "+"
    for name, words in (("missing", "missing"), ("waiting", "not yet done")):
        if found.headings[name]:
            yield f"! {words:<12}{found.headings[name]:>12,}"
    if found.missing_at:
        places = ", ".join(f"{partition}/{offset}" for partition, offset in found.missing_at)
        yield f"  missing at partition/offset {places}"
    yield f"decisions       {_listed(found.decisions) or 'none'}"
    yield f"alerts          {_listed(found.alerts) or 'none'}"
    if found.repeats:
        told = _listed(found.repeats)
        yield f"sent twice      {told} (equal but for produced_time, readers drop them)"
    if found.foreign:
        told = _listed(found.foreign)
        yield f"left out        {told} (of messages that a topic made again does not hold)"
    if found.latency_ms is not None:
        spent = found.latency_ms
        yield (
            f"latency         p50 {spent['p50']:,.0f} ms, p99 {spent['p99']:,.0f} ms, "
            f"p99.9 {spent['p99_9']:,.0f} ms, from append of a transaction to append of its score"
        )
    if found.quality is not None:
        yield from _quality(found.quality)
    for text, count in found.faults.items():
        yield f"! {text}: {count:,}"
    yield "The books balance." if found.balanced else "THE BOOKS DO NOT BALANCE."


def _quality(told: dict[str, object]) -> Iterator[str]:
    def share(name: str) -> str:
        value = told[name]
        return _percent(value if isinstance(value, float) else None)

    yield (
        f"alerts          precision {share('precision')}, recall {share('recall')} "
        f"of {told['frauds']:,} labelled frauds"
    )
    yield (f"blocks          precision {share('block_precision')}, recall {share('block_recall')}")
    kinds = told["by_type"]
    assert isinstance(kinds, dict)
    if len(kinds) > 1:
        each = (
            f"{kind} {_percent(one['recall'])} of {one['frauds']:,}" for kind, one in kinds.items()
        )
        yield f"recall by kind  {', '.join(each)}"

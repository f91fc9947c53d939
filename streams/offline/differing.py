"""Which alerts differ between the champion and a challenger, one by one, and why.

In: the result files of a backtest, labels. Out: `alerts-that-differ.parquet`, and the widest gaps
among them as examples. Does not know measures. It reads the results once, a row group at a time.

Both saw the same features, so the scores of the two, their thresholds and the reasons of the one
that raised the alert say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.disk import into_place
from model.errors import writing
from streams.labels import DISPUTED, FRAUD, LEGITIMATE, LabelBook, transaction_keys
from streams.offline import results

FILE = "alerts-that-differ.parquet"
EXAMPLES = 8
"""Alerts shown in the report for each side of a difference."""
WHO = ("champion", "challenger")
_OWN = ("transaction_id", "account_id", "offset", "event_time", "amount", "currency")
_SCHEMA = pa.schema(
    [
        ("challenger_name", pa.string()),
        ("alerted_by", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("transaction_id", pa.string()),
        ("account_id", pa.string()),
        ("event_time", pa.int64()),
        ("amount", pa.int64()),
        ("currency", pa.string()),
        ("label", pa.string()),
        ("champion", pa.float64()),
        ("champion_decision", pa.string()),
        ("challenger", pa.float64()),
        ("challenger_decision", pa.string()),
        ("why", pa.string()),
    ]
)


def write(
    out: Path, book: LabelBook, names: Sequence[str], *, as_of: int, judge_from: int
) -> list[list[dict[str, Any]]]:
    """Write the file for all challengers; returns the examples of each of them."""
    kept: list[dict[str, list[dict[str, Any]]]] = [{who: [] for who in WHO} for _ in names[1:]]
    columns = [*_OWN, "outcome"]
    columns += [
        f"{name}_{k}" for k in range(len(names)) for name in ("score", "decision", "reasons")
    ]
    draft = out / f"{FILE}.part"
    with writing(out / FILE), pq.ParquetWriter(draft, _SCHEMA, compression="zstd") as writer:
        for shard, table in results.tables(out, columns):
            table = table.filter(pc.equal(table["outcome"], results.SCORED))
            table = table.filter(pc.greater_equal(table["event_time"], judge_from))
            for k, name in enumerate(names[1:], 1):
                rows = _differing(table, shard, book, as_of, k, name)
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                for who in WHO:
                    own = [row for row in rows if row["alerted_by"] == who]
                    kept[k - 1][who] = sorted(kept[k - 1][who] + own, key=_narrow)[:EXAMPLES]
    with writing(out / FILE):
        into_place(draft, out / FILE)
    return [[row for who in WHO for row in sides[who]] for sides in kept]


def _narrow(row: dict[str, Any]) -> tuple[float, int, int]:
    """Widest gap of scores first; then by place."""
    return -abs(row["champion"] - row["challenger"]), row["partition"], row["offset"]


def _differing(
    table: pa.Table, shard: int, book: LabelBook, as_of: int, k: int, name: str
) -> list[dict[str, Any]]:
    """The rows of a table with an alert of one side only."""
    flagged = [
        pc.not_equal(table[f"decision_{model}"], "approve").to_numpy(zero_copy_only=False)
        for model in (0, k)
    ]
    table = table.filter(pa.array(flagged[0] != flagged[1]))
    mine = flagged[0][flagged[0] != flagged[1]]
    keys = transaction_keys(*(table[each].to_pylist() for each in ("account_id", "transaction_id")))
    words = {FRAUD: "fraud", LEGITIMATE: "legitimate", DISPUTED: "disputed"}
    labels = [words.get(verdict, "not known") for verdict in book.at(keys, as_of).tolist()]
    found = []
    for row, own, label in zip(table.to_pylist(), mine.tolist(), labels, strict=True):
        found.append(
            {each: row[each] for each in _OWN}
            | {
                "challenger_name": name,
                "alerted_by": WHO[0] if own else WHO[1],
                "partition": shard,
                "label": label,
                "champion": _number(row["score_0"]),
                "champion_decision": row["decision_0"],
                "challenger": _number(row[f"score_{k}"]),
                "challenger_decision": row[f"decision_{k}"],
                "why": _why(row["reasons_0" if own else f"reasons_{k}"]),
            }
        )
    return found


def _number(score: float) -> float:
    """0 where no model was asked."""
    return 0.0 if np.isnan(score) else score


def _why(reasons: str | None) -> str:
    """The reasons of an alert in words."""
    return "; ".join(each["text"] for each in orjson.loads(reasons or "[]"))

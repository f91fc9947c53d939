"""The list of alerts that differ, against the rows it was made from."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow.parquet as pq

from streams.labels import LabelBook, decode_labels
from streams.offline import differing
from streams.schema import DAY_MS
from tests.offline.test_evaluation import DAY_0, label, row, write


def test_every_alert_of_one_side_only_with_its_reasons(tmp_path: Path) -> None:
    def flagged(k: int, score: float) -> dict[str, object]:
        reasons = orjson.dumps([{"text": f"said by {k}"}, {"text": "and more"}]).decode()
        return {f"score_{k}": score, f"decision_{k}": "review", f"reasons_{k}": reasons}

    calm = {"score_1": 0.2, "decision_1": "approve"}
    rows = [
        row(0, 0, **calm | flagged(0, 0.7)),
        row(1, 0, **flagged(0, 0.9), **flagged(1, 0.9)),
        row(2, 1, **flagged(1, 0.6)),
        row(3, 1, **calm),
        row(4, 2, **calm | flagged(0, 0.95)),
    ]
    write(tmp_path, rows, models=2, shard=3)
    book = LabelBook(decode_labels([label(0, 5), label(2, 6, "legitimate"), label(4, 30)]))
    as_of = (DAY_0 + 10) * DAY_MS
    shown = differing.write(tmp_path, book, ["a", "b"], as_of=as_of, judge_from=0)
    assert [(each["alerted_by"], each["offset"]) for each in shown[0]] == [
        ("champion", 4),
        ("champion", 0),
        ("challenger", 2),
    ]
    found = {each["offset"]: each for each in pq.read_table(tmp_path / differing.FILE).to_pylist()}
    assert sorted(found) == [0, 2, 4]
    assert [found[n]["label"] for n in (0, 2, 4)] == ["fraud", "legitimate", "not known"]
    assert found[2]["why"] == "said by 1; and more"
    assert (found[0]["champion"], found[0]["challenger"]) == (0.7, 0.2)
    assert found[0]["partition"] == 3 and found[0]["transaction_id"] == "t-0"
    differing.write(tmp_path, book, ["a", "b"], as_of=as_of, judge_from=(DAY_0 + 1) * DAY_MS)
    assert pq.read_table(tmp_path / differing.FILE)["offset"].to_pylist() == [2, 4]

"""The training set holds what the pipeline computed, and labels with their times."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from model import data
from model.bundle import shipped
from model.errors import OutputTaken
from streams import features
from streams.errors import ConfigError
from streams.offline.backtest import backtest
from streams.offline.dataset import dataset
from streams.offline.refused import refused
from streams.offline.risk_pass import build
from streams.offline.run import Job, open_shard, replay
from streams.offline.source import RecordingSource, open_source
from streams.offline.whatif import whatif
from streams.schema import DAY_MS
from streams.windows import APPLIED
from tests.model import streams_of_words
from tests.offline import world

DAY = 1_735_689_600_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordingSource:
    files = world.stream(
        tmp_path_factory.mktemp("stream"), events=2_000, late=0.02, duplicates=0.02, faults=0.02
    )
    return RecordingSource(open_source(*files, tmp_path_factory.mktemp("spool")).location())


def job(source: RecordingSource, out: Path, batch: int = 512) -> Job:
    return Job(source, (world.settings(),), out, batch=batch)


def test_every_accepted_event_with_the_features_of_its_moment(
    source: RecordingSource, tmp_path: Path
) -> None:
    summary = dataset(job(source, tmp_path / "d"))
    made = data.read(tmp_path / "d", check=True)
    assert made.names == features.NAMES and made.feature_digest == features.DIGEST
    labels = [orjson.loads(value) for value in source.labels()]
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for each in sorted(labels, key=lambda label: label["label_time"]):
        verdict = {"fraud": 1, "legitimate": 0}.get(each["label"], -1)
        newest[each["account_id"], each["transaction_id"]] = (verdict, each["label_time"])

    one = job(source, tmp_path / "x")
    snapshots = build(source, one.settings[0], tmp_path / "risk")
    expected: dict[bytes, list[tuple[bytes, int, int]]] = {}
    for shard in source.shards():
        for step in open_shard(one, snapshots, shard).steps(source.batches(shard, 99)):
            columns = step.work.columns
            for i in np.flatnonzero(step.work.status == APPLIED).tolist():
                account = columns.account_id[i]
                verdict, time = newest.get((account, columns.transaction_id[i]), (-1, -1))
                currency = columns.currency[i].encode()
                held = (
                    columns.words[i].tobytes() + step.work.features[i].tobytes() + currency,
                    verdict,
                    time if verdict >= 0 else -1,
                )
                expected.setdefault(account.encode(), []).append(held)
    found: dict[int, list[tuple[bytes, int, int]]] = {}
    for i in range(len(made)):
        content = made.words[i].tobytes() + made.features[i].tobytes()
        content += made.currencies[made.currency[i]].encode()
        held = (content, int(made.label[i]), int(made.label_time[i]))
        found.setdefault(int(made.account[i]), []).append(held)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected.values()))
    assert summary["rows"] == len(made) == sum(map(len, expected.values())) > 1_800
    assert summary["frauds"] == int((made.label == 1).sum()) > 10
    assert all(np.diff(made.time[made.account == account]).min(initial=0) >= 0 for account in found)


def test_jobs_and_batches_leave_no_trace(source: RecordingSource, tmp_path: Path) -> None:
    one = dataset(job(source, tmp_path / "a"))
    two = dataset(job(source, tmp_path / "b", batch=77), jobs=2)
    assert one == two
    made = {data.MANIFEST, *(f"{name}.npy" for name in data.ARRAYS)}
    assert {path.name for path in (tmp_path / "b").iterdir()} == made


class Strange(RecordingSource):
    """Somebody wrote other things to the topic of labels, and of another stream's transactions."""

    def labels(self) -> Iterator[bytes]:
        held = [orjson.loads(value) for value in super().labels()]
        yield from map(orjson.dumps, held)
        yield from (b"[]", b'{"label": "fraud"}')
        yield orjson.dumps(held[0] | {"transaction_id": "nobody's"})


def test_labels_of_nothing_are_told(
    source: RecordingSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = dataset(job(source, tmp_path / "d"))
    caplog.clear()
    assert dataset(job(Strange(source.path), tmp_path / "d2")) == whole
    assert [record.getMessage() for record in caplog.records] == [
        f"2 messages among the labels of {source.path} are no labels: passed over",
        "1 transactions with a label are not among the accepted ones",
    ]


def test_labels_older_than_their_transactions_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In seconds, or shifted by a zone: they would count as known at any moment."""
    told = {name: [(later, "fraud", None)] for name, later in (("a", -1), ("b", 0), ("c", 1))}
    _made(tmp_path, told)
    assert "labels older than their transactions: 1" in caplog.text


def test_a_label_that_would_make_the_set_older_than_it_is_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its time is what a fit and an evaluation take for now."""
    _made(tmp_path / "usual", {"a": [(540 * DAY_MS, "fraud", None)], "b": []})
    assert "counts as legitimate" not in caplog.text
    _made(tmp_path / "slip", {"a": [(541 * DAY_MS, "fraud", None)], "b": []})
    assert "541 days after the last payment" in caplog.text and "mend it" in caplog.text


def test_a_training_set_that_is_replaced_is_named(
    source: RecordingSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data.write(streams_of_words.dataset(accounts=2), tmp_path / "d")
    before = data.read(tmp_path / "d").digest
    for _ in range(2):  # the second writes the same again
        dataset(job(source, tmp_path / "d"))
    replaced = [record.getMessage() for record in caplog.records if before in record.getMessage()]
    assert len(replaced) == 1 and "is replaced" in replaced[0]


def test_a_source_without_accepted_events(tmp_path: Path) -> None:
    # A transaction without an id: it can be published, and the service refuses it.
    file = tmp_path / "refused.jsonl"
    file.write_text('{"schema_version": 1, "account_id": "a", "event_time": 1735689600000}\n')
    source = RecordingSource(open_source(file, None, tmp_path).location())
    said = "no accepted transaction: 1 of 1 messages refused: missing_field 1"
    with pytest.raises(ConfigError, match=said):
        dataset(job(source, tmp_path / "d"))
    with pytest.raises(ConfigError, match=said):
        backtest(job(source, tmp_path / "b"), ["stub"], as_of=DAY * 2)
    with pytest.raises(ConfigError, match=said):
        whatif(replace(job(source, tmp_path / "w"), settings=(world.settings(),) * 2))
    (tmp_path / "none.jsonl").write_text("")
    none = RecordingSource(open_source(tmp_path / "none.jsonl", None, tmp_path / "n").location())
    with pytest.raises(ConfigError, match="the source holds no transaction"):
        dataset(job(none, tmp_path / "e"))


def test_what_was_refused_is_counted_by_reason_and_told(
    source: RecordingSource, tmp_path: Path
) -> None:
    """A third of a set could be lost, and nothing said so."""
    made = dataset(job(source, tmp_path / "d"))
    ran = replay(job(source, tmp_path / "r"))
    assert made["refused"] == ran["dead"] and len(ran["dead"]) > 1
    assert made["messages"] == ran["messages"]
    assert data.read(tmp_path / "d").about["refused"] == ran["dead"]
    told = refused(ran["dead"], ran["messages"])
    assert told.startswith(f"{sum(ran['dead'].values())} of {ran['messages']:,} messages refused: ")
    assert all(f"{reason} {count}" in told for reason, count in ran["dead"].items())
    assert refused({}, 5) == ""
    summary = backtest(job(source, tmp_path / "b"), ["stub"])
    assert summary["refused"] == told
    assert html.escape(told) in (tmp_path / "b" / "report.html").read_text()


def test_a_training_set_takes_the_place_of_nothing_else(
    source: RecordingSource, tmp_path: Path
) -> None:
    """A recording or a bundle without its manifest is lost."""
    for name in ("recording", "bundle", "other"):
        (tmp_path / name).mkdir()
    for place, content in (
        (tmp_path / "recording", (Path(source.location()) / "manifest.json").read_bytes()),
        (tmp_path / "bundle", (shipped() / "manifest.json").read_bytes()),
        (tmp_path / "other", b"[1]"),
    ):
        (place / "manifest.json").write_bytes(content)
        with pytest.raises(OutputTaken, match="nothing there was touched"):
            dataset(job(source, place))
        assert [path.name for path in place.iterdir()] == ["manifest.json"]
        assert (place / "manifest.json").read_bytes() == content


def test_who_has_the_set_before_open_keeps_it(tmp_path: Path) -> None:
    """A fit reads its set from disk to the end, whatever is written there meanwhile."""
    one, two = (streams_of_words.dataset(accounts=2, seed=seed) for seed in (1, 2))
    data.write(one, tmp_path / "d")
    held = data.read(tmp_path / "d")
    data.write(two, tmp_path / "d")
    assert (held.words == one.words).all()
    assert (data.read(tmp_path / "d", check=True).words == two.words).all()
    assert not list((tmp_path / "d").glob("*.part"))


def test_currencies_outlive_the_disk_and_a_union_and_a_set_without_any_is_read(
    tmp_path: Path,
) -> None:
    parts = [streams_of_words.dataset(accounts=1, each=3, seed=seed) for seed in (1, 2)]
    one = replace(parts[0], currency=np.array([0, 1, 0], np.int16), currencies=("EUR", "JPY"))
    two = replace(parts[1], currency=np.array([1, 1, 0], np.int16), currencies=("CHF", "EUR"))
    data.write(data.concat([one, two]), tmp_path / "d")
    held = data.read(tmp_path / "d", check=True)
    assert [held.currencies[code] for code in held.currency] == [
        "EUR",
        "JPY",
        "EUR",
        "EUR",
        "EUR",
        "CHF",
    ]
    # As an earlier version wrote it.
    manifest = orjson.loads((tmp_path / "d" / "manifest.json").read_bytes())
    del manifest["currencies"], manifest["sha256"]["currency"]
    (tmp_path / "d" / "manifest.json").write_bytes(orjson.dumps(manifest))
    (tmp_path / "d" / "currency.npy").unlink()
    early = data.read(tmp_path / "d", check=True)
    assert {early.currencies[code] for code in early.currency} == {"XXX"}


def _made(tmp_path: Path, told: dict[str, list[tuple[int, str, str | None]]]) -> data.Dataset:
    """The set of transactions by id, with their labels: (ms after it, label, fraud_type)."""
    tmp_path.mkdir(exist_ok=True)
    transactions, labels = [], []
    for name, each in told.items():
        event = {"account_id": "a", "transaction_id": name}
        transactions.append(
            event | {"schema_version": 1, "event_time": DAY, "amount": 1, "currency": "EUR"}
        )
        for later, verdict, kind in each:
            label = {"label_id": f"{name}{later}", "label": verdict, "label_time": DAY + later}
            labels.append(event | label | ({"fraud_type": kind} if kind else {}))
    for file, rows in (("t.jsonl", transactions), ("l.jsonl", labels)):
        (tmp_path / file).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    files = open_source(tmp_path / "t.jsonl", tmp_path / "l.jsonl", tmp_path)
    dataset(job(RecordingSource(files.location()), tmp_path / "d"))
    return data.read(tmp_path / "d")


def test_the_kind_of_a_fraud_is_what_its_newest_label_tells(tmp_path: Path) -> None:
    """In whatever order labels arrived; and a fraud that was overruled is of no kind."""
    made = _made(
        tmp_path,
        {
            "twice": [(2, "fraud", "mule"), (1, "fraud", "order")],
            "bare": [(1, "fraud", "order"), (2, "fraud", None)],
            "overruled": [(1, "fraud", "order"), (2, "legitimate", None)],
            "silent": [],
        },
    )
    assert made.kinds == ("none", "mule", "order")
    assert made.kind.tolist() == [1, 2, 0, 0]

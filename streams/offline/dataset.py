"""The training set of a source: events, features as they were at the time, labels as they came.

In: a job over one model-less pipeline. Out: the folder of `model/data.py`.
Does not know what is trained from it. A label is kept with its label_time, so that a fit can ask
what was known by a moment; the features were computed by the pipeline, hence without the future.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import data
from model.disk import into_place
from model.errors import DatasetError, writing
from model.inputs import TIME_SHIFT
from streams import features
from streams.labels import FRAUD, Age, LabelBook, each_label, transaction_keys
from streams.offline.engine import Engine, Tell
from streams.offline.refused import require_accepted, tell_early, tell_far, tell_strange
from streams.offline.risk_pass import Snapshots
from streams.offline.run import Job, Progress, claim_directory, open_shard, over_shards
from streams.offline.source import decoded
from streams.risk_pace import Pace
from streams.settle import refusals
from streams.windows import APPLIED

PARTS = ".parts"
"""Within the set's folder: what a run that was broken off goes on with; gone when it is done."""
_logger = logging.getLogger(__name__)
ID_BYTES = 256
"""Bytes kept of an id while sorting: 64 characters of UTF-8."""


def _shard_file(job: Job, shard: int) -> Path:
    return job.out / f"{shard:05d}.npz"


def collect_shard(on: tuple[Job, Snapshots], shard: int, tell: Tell) -> None:
    """One shard's accepted events to a file of arrays."""
    job, snapshots = on
    runner = open_shard(job, snapshots, shard, judged=False)
    parts: dict[str, list[NDArray[Any]]] = {
        "words": [np.zeros((0, 4), np.uint64)],
        "features": [np.zeros((0, features.COUNT), np.float32)],
        "account": [np.zeros(0, f"S{ID_BYTES}")],
        "transaction": [np.zeros(0, f"S{ID_BYTES}")],
        "currency": [np.zeros(0, "S3")],
    }
    refused: Counter[str] = Counter()
    messages = 0
    for step in runner.steps(job.source.batches(shard, job.batch)):
        kept = np.flatnonzero(step.work.status == APPLIED)
        columns = step.work.columns
        parts["words"].append(columns.words[kept])
        parts["features"].append(step.work.features[kept])
        parts["account"].append(_ids(columns.account_id, kept))
        parts["transaction"].append(_ids(columns.transaction_id, kept))
        parts["currency"].append(np.array(columns.currency, "S3")[kept])
        refused += refusals(step.work)
        messages += len(columns.batch)
        tell(len(columns.batch))
    path = _shard_file(job, shard)
    draft = path.with_suffix(".part")
    arrays: dict[str, Any] = {name: np.concatenate(some) for name, some in parts.items()}
    arrays["refused"] = np.array(list(refused.elements()), "U64")
    arrays["messages"] = np.array([messages])
    with writing(path):
        with draft.open("wb") as out:
            np.savez(out, **arrays)
        into_place(draft, path)


def _ids(names: list[str], kept: NDArray[np.int64]) -> NDArray[Any]:
    return np.array([names[i].encode() for i in kept.tolist()], f"S{ID_BYTES}")


def dataset(
    job: Job,
    *,
    jobs: int = 1,
    engine: Engine = "processes",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write the training set to `job.out`; returns what was written.

    Raises ConfigError when the source holds no accepted transaction, or when the directory holds
    the parts of another training set; OutputTaken when it holds a recording or a bundle.
    """
    data.check_place(job.out)
    part = replace(job, out=job.out / PARTS)
    claim_directory(part.out, job.identity())
    shards = job.source.shards()
    missing = [shard for shard in shards if not _shard_file(part, shard).exists()]
    over_shards(collect_shard, part, missing, jobs, engine, progress)
    loaded = [np.load(_shard_file(part, shard)) for shard in shards]
    parts = {name: np.concatenate([one[name] for one in loaded]) for name in loaded[0].files}
    dead = dict(Counter(parts["refused"].tolist()))
    messages = int(parts["messages"].sum())
    require_accepted(len(parts["words"]), dead, messages)
    before = _digest_at(job.out)
    summary = _write(job, parts, {"messages": messages, "refused": dead})
    if before not in (None, summary["digest"]):
        _logger.warning("the training set %s that was in %s is replaced", before, job.out)
    shutil.rmtree(part.out)
    return summary


def _digest_at(folder: Path) -> str | None:
    """Of the training set there; None where none can be read."""
    try:
        return data.read(folder).digest
    except DatasetError:
        return None


def _write(job: Job, parts: Mapping[str, NDArray[Any]], told: dict[str, Any]) -> dict[str, Any]:
    values = list(job.source.labels())
    book = LabelBook(decoded(job.source, values))
    accounts = [name.decode() for name in parts["account"].tolist()]
    transactions = [name.decode() for name in parts["transaction"].tolist()]
    label, label_time = book.newest(accounts, transactions)
    time = parts["words"][:, 0] >> np.uint64(TIME_SHIFT)
    tell_early(int(((label_time >= 0) & (label_time < time)).sum()))
    tell_far(int(label_time.max()), int(time.max()), "mend it, and make the set anew")
    kind, kinds = _kinds(values, accounts, transactions)
    kind[label != FRAUD] = 0  # what was overruled is no case of its kind
    built = data.build(
        parts["words"],
        parts["features"],
        parts["account"],
        label,
        label_time,
        names=features.NAMES,
        feature_digest=features.DIGEST,
        kind=kind,
        kinds=kinds,
        currency=parts["currency"].astype("U3"),
    )
    about = {"source": job.source.identity(), "risk": Pace.of(job.settings[0].risk).told(), **told}
    digest = data.write(built, job.out, **about)
    return {
        "digest": digest,
        "rows": len(built),
        "accounts": int(built.account.max()) + 1,
        "frauds": int((label == 1).sum()),
        "labelled": int((label >= 0).sum()),
        "features": len(features.NAMES),
        **told,
    }


def _kinds(
    values: Iterable[bytes], accounts: list[str], transactions: list[str]
) -> tuple[NDArray[np.int8], list[str]]:
    """The fraud_type of each transaction as a code, 0 for none; for evaluation by segment.

    Of several that labels of fraud tell the newest counts, as of verdicts. Tells how many labelled
    transactions there are not.
    """
    found: dict[int, tuple[Age, str]] = {}
    named: set[int] = set()
    for key, age, label in each_label(values):
        named.add(key)
        if label["label"] == "fraud" and label.get("fraud_type"):
            told = age, label["fraud_type"]
            found[key] = max(found.get(key, told), told)
    names = sorted({name for _, name in found.values()})[: np.iinfo(np.int8).max - 1]
    code = {name: index for index, name in enumerate(names, 1)}
    keys = transaction_keys(accounts, transactions).tolist()
    tell_strange(len(named.difference(keys)))
    kind = np.array([code.get(found[key][1], 0) if key in found else 0 for key in keys], np.int8)
    return kind, ["none", *names]

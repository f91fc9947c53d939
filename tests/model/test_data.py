"""The training set against loops over its rows: gates of labels, histories, what a file holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import data
from model.data import Dataset
from model.errors import DatasetError, DatasetMissing
from model.inputs import AUTH_MASK, AUTH_SHIFT, HISTORY
from tests.model import streams_of_words as made

CUT, WAIT = 20, 5
told = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from([-1, 0, 1]), st.integers(-1, 30)),
    min_size=1,
    max_size=30,
)
"""Event time, label, label time; -1 at once without a label is silence."""


def of_rows(rows: list[tuple[int, int, int]]) -> Dataset:
    words = np.zeros((len(rows), 4), np.uint64)
    words[:, 0] = np.array([time for time, _, _ in rows], np.uint64) << np.uint64(20)
    return data.build(
        words,
        np.zeros((len(rows), 1), np.float32),
        [f"{i:02d}" for i in range(len(rows))],  # of an account each, so that they stay in order
        np.array([label for _, label, _ in rows], np.int8),
        np.array([when for _, _, when in rows], np.int64),
        names=["f"],
        feature_digest="x",
    )


@given(told)
def test_a_label_counts_from_the_moment_after_it_was_known(
    rows: list[tuple[int, int, int]],
) -> None:
    """Row by row: silence settles an event after the wait, a dispute never; what a moment knew is
    what was known before it."""
    label, when = data.mature(
        np.array([row[1] for row in rows], np.int8),
        np.array([row[2] for row in rows], np.int64),
        np.array([row[0] for row in rows], np.int64),
        WAIT,
    )
    matured, known, then = [], [], []
    for time, verdict, at in rows:
        silent = verdict == -1 and at == -1
        verdict, at = (0, time + WAIT) if silent else (verdict, at)
        matured.append((verdict, at))
        known.append(verdict >= 0 and at < CUT)
        # At the cut nothing had been said of it for long enough.
        quiet = at >= CUT and time + WAIT < CUT
        then.append((0, time + WAIT) if quiet else (verdict, at))
    assert list(zip(label.tolist(), when.tolist(), strict=True)) == matured
    whole = replace(of_rows(rows), label=label, label_time=when)
    assert whole.known_at(CUT).tolist() == known
    past = data.as_of(whole, CUT, WAIT)
    assert list(zip(past.label.tolist(), past.label_time.tolist(), strict=True)) == then
    frauds = [(time, at) for (time, _, _), (is_fraud, at) in zip(rows, matured, strict=True)
              if is_fraud == 1]  # fmt: skip
    assert data.now(whole) == max([row[0] for row in rows] + [at for _, at in frauds]) + 1
    days = [(at - time) / data.DAY_MS for time, at in frauds]
    assert data.report_days(whole).tolist() == days
    truth = np.resize(np.array([-1, 0, 1], np.int8), len(rows))
    answers = [right if right >= 0 else said for right, said in zip(truth, label, strict=True)]
    assert replace(whole, truth=truth).answer().tolist() == answers


def test_a_row_is_gathered_with_the_last_of_its_account_before_it() -> None:
    """Neither with what came after it, nor with another account's, nor with its own response."""
    whole = made.dataset(3, HISTORY + 6)
    rows = np.random.default_rng(0).permutation(len(whole))
    batch = data.gather(whole, whole.place(), rows)
    response = np.uint64(AUTH_MASK << AUTH_SHIFT)
    assert (whole.words[:, 0] & response).any()
    for k, row in enumerate(rows.tolist()):
        before = np.flatnonzero(whole.account[:row] == whole.account[row])[-HISTORY:]
        assert batch.length[k] == len(before)
        assert (batch.history[k, HISTORY - len(before) :] == whole.words[before]).all()
        assert not batch.history[k, : HISTORY - len(before)].any()
        assert batch.current[k, 0] == whole.words[row, 0] & ~response
        assert (batch.current[k, 1:] == whole.words[row, 1:]).all()
        assert (batch.features[k] == whole.features[row]).all()


def test_a_feature_that_is_no_number_is_named() -> None:
    whole = made.dataset(1, 3)
    x = np.array(whole.features)
    x[0, 2], x[2, 5] = np.nan, np.inf
    with pytest.raises(DatasetError, match=r"finite numbers in: f2, f5$"):
        data.build(
            whole.words, x, ["a"] * 3, whole.label, whole.label_time,
            names=whole.names, feature_digest="x",
        )  # fmt: skip


def test_accounts_of_two_streams_stay_apart() -> None:
    parts = [made.dataset(2, 4, seed=seed) for seed in (1, 2, 3)]
    whole = data.concat(parts)
    assert whole.account.tolist() == np.repeat(np.arange(6), 4).tolist()
    assert (whole.place() == np.tile(np.arange(4), 6)).all()
    for name in ("words", "features", "label", "label_time"):
        assert (getattr(whole, name) == np.concatenate([getattr(p, name) for p in parts])).all()


@pytest.mark.parametrize("name", data.ARRAYS)
def test_one_changed_bit_of_any_array_is_found(tmp_path: Path, name: str) -> None:
    whole = made.dataset(1, 4)
    digest = data.write(whole, tmp_path, made_of="a test")
    held = data.read(tmp_path, check=True)
    assert (held.about, held.digest) == ({"made_of": "a test"}, digest)
    assert (getattr(held, name) == getattr(whole, name)).all()
    other = np.array(getattr(whole, name))
    other.view(np.uint8).reshape(-1)[0] ^= 1
    np.save(tmp_path / f"{name}.npy", other)
    with pytest.raises(DatasetError, match=rf"{name}\.npy .* does not match its checksum"):
        data.read(tmp_path, check=True)
    assert data.write(replace(whole, **{name: other}), tmp_path) != digest
    np.save(tmp_path / f"{name}.npy", other[:3])
    with pytest.raises(DatasetError, match=rf"{name}\.npy .* has 3 rows, not 4"):
        data.read(tmp_path)
    (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match=rf"is damaged: {name}\.npy: "):
        data.read(tmp_path)
    (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(DatasetMissing, match=rf"{name}\.npy is missing"):
        data.read(tmp_path)


def test_the_digest_of_a_set_is_of_what_it_holds_and_not_of_where(tmp_path: Path) -> None:
    whole = made.dataset(1, 4)
    digests = [data.write(one, tmp_path / str(i)) for i, one in enumerate((whole, whole))]
    names = tuple(f"g{i}" for i in range(len(whole.names)))
    assert digests[0] == digests[1] != data.write(replace(whole, names=names), tmp_path / "2")


@pytest.mark.parametrize(
    "changes", [{"format": 2}, {"format": "2"}, {"rows": None}, {"kinds": 5}, {"about": 5}]
)
def test_a_manifest_that_is_not_one_is_told(tmp_path: Path, changes: dict[str, Any]) -> None:
    data.write(made.dataset(1, 4), tmp_path)
    manifest = json.loads((tmp_path / data.MANIFEST).read_bytes())
    (tmp_path / data.MANIFEST).write_text(json.dumps(manifest | changes))
    with pytest.raises(DatasetError, match="has format 2, not 1" if "format" in changes else "dam"):
        data.read(tmp_path)


def test_a_set_comes_back_whole_and_is_not_read_before_it_is_used(tmp_path: Path) -> None:
    whole = replace(
        made.dataset(1, 4), kinds=("none", "mule"), kind=np.array([0, 1, 0, 1], np.int8)
    )
    data.write(whole, tmp_path / "in" / "deep")
    held = data.read(tmp_path / "in" / "deep")
    assert (held.names, held.kinds, held.currencies, held.feature_digest) == (
        whole.names, whole.kinds, whole.currencies, whole.feature_digest,
    )  # fmt: skip
    for name in data.ARRAYS:
        assert isinstance(getattr(held, name), np.memmap)
        assert getattr(held, name).dtype == getattr(whole, name).dtype
    assert data.concat([held, held]).digest == "", "it is another set"
    with pytest.raises(FileExistsError):
        data.write(whole, tmp_path / "in" / "deep" / "words.npy")


@pytest.mark.parametrize("files", range(len(data.ARRAYS) + 1))
def test_a_stop_amid_the_renames_leaves_no_mixture(
    tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (made.dataset(1, 4, seed=seed) for seed in (1, 2))
    data.write(one, tmp_path)
    rename, left = Path.replace, iter(range(files))

    def stopped(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            data.write(two, tmp_path)
    with pytest.raises(DatasetMissing):
        data.read(tmp_path)
    data.write(two, tmp_path)
    assert (data.read(tmp_path, check=True).words == two.words).all()


def test_the_arrays_are_on_the_disk_before_the_manifest_that_names_them(
    tmp_path: Path, synced: list[int]
) -> None:
    data.write(made.dataset(accounts=2), tmp_path)
    names = [*(f"{name}.npy" for name in data.ARRAYS), data.MANIFEST]
    files = [(tmp_path / name).stat().st_ino for name in names]
    assert [at for at in synced if at in files] == files


def test_a_file_of_transactions_in_place_of_a_training_set_is_told_what_to_make_of_it(
    tmp_path: Path,
) -> None:
    (file := tmp_path / "stream.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetMissing, match="is a file, not the folder") as failure:
        data.read(file)
    assert f"fraudstream dataset {file} data/" in (failure.value.remedy or "")

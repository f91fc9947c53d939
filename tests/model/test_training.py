"""Training: gates, chunks, gradients, learning a planted rule, calibration, resuming."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import calibrate, data, finetune, loop, metrics, pretrain, processes, rows, teacher
from model.errors import DatasetError
from model.loop import Recipe, Source
from model.score import calibrate as to_probability
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL


def test_files_round_trip_and_damage_is_found(tmp_path: Path) -> None:
    whole = made.dataset(3, 40)
    digest = data.write(whole, tmp_path / "d", source="test")
    again = data.read(tmp_path / "d", check=True)
    assert again.digest == digest
    assert (again.words == whole.words).all()
    assert again.names == whole.names
    path = tmp_path / "d" / "features.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="checksum"):
        data.read(tmp_path / "d", check=True)
    with pytest.raises(DatasetError, match="no training set"):
        data.read(tmp_path / "nothing")
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec" / data.MANIFEST).write_text('{"format": "fraudstream-recording"}')
    with pytest.raises(DatasetError, match="is a recording, not a training set") as failure:
        data.read(tmp_path / "rec")
    assert "fraudstream dataset" in (failure.value.remedy or "")


def test_build_sorts_by_account_and_time_with_ties_in_arrival_order() -> None:
    words = np.zeros((5, 4), np.uint64)
    words[:, 0] = np.array([30, 10, 20, 10, 10], np.uint64) << np.uint64(20)
    words[:, 2] = np.arange(5)
    made_of = data.build(
        words,
        np.zeros((5, 1), np.float32),
        np.array(["b", "a", "b", "a", "b"]),
        np.zeros(5, np.int8),
        np.zeros(5, np.int64),
        names=["f"],
        feature_digest="x",
    )
    assert made_of.words[:, 2].tolist() == [1, 3, 4, 2, 0]
    assert made_of.place().tolist() == [0, 1, 0, 1, 2]


def test_label_time_gates_every_label() -> None:
    whole = made.dataset(3, 40)
    cut = int(np.median(whole.label_time))
    known = whole.known_at(cut)
    assert known.any()
    assert not known.all()
    assert (whole.label_time[known] < cut).all()
    label, when = data.mature(
        np.array([-1, 1, -1], np.int8), np.array([-1, 5, 7]), np.array([100, 100, 100]), 14
    )
    assert label.tolist() == [0, 1, -1], "the last is disputed, and that no silence settles"
    assert when.tolist() == [114, 5, 7]


def test_what_came_after_the_fit_changes_nothing_in_it() -> None:
    """A fit of a moment is the same whether the recording ends there or goes on."""
    whole = made.dataset(12, 150)
    wait, cut = 7 * made.DAY_MS, int(np.quantile(whole.time, 0.7))
    rng = np.random.default_rng(5)
    label = np.where(whole.label == 1, 1, -1).astype(np.int8)
    when = np.where(label == 1, whole.time + rng.integers(1, 30, len(whole)) * made.DAY_MS, -1)

    def fitted_on(label: Any, when: Any) -> tuple[Any, Any, finetune.Plan]:
        label, when = data.mature(label, when, whole.time, wait)
        then = data.as_of(replace(whole, label=label, label_time=when), cut, wait)
        return then.known_at(cut), then.label, finetune.Plan.newest(then, cut, 10, wait)

    late = when >= cut
    assert (late & (whole.time + wait < cut)).any()
    known, seen, plan = fitted_on(label, when)
    known_then, seen_then, plan_then = fitted_on(
        np.where(late, -1, label).astype(np.int8), np.where(late, -1, when)
    )
    assert (known == known_then).all() and plan == plan_then
    assert (seen[known] == seen_then[known]).all()


def test_now_is_the_newest_event_or_report() -> None:
    """Not the day on which the last silence will have lasted long enough."""
    whole = made.dataset(3, 40)
    label = np.zeros(len(whole), np.int8)
    when = whole.time + 14 * made.DAY_MS
    quiet = replace(whole, label=label, label_time=when)
    assert data.now(quiet) == int(whole.time.max()) + 1
    assert finetune.Plan.newest(quiet, judge_days=2, maturity_ms=made.DAY_MS).judge_to <= int(
        whole.time.max()
    )
    label[0], when[0] = 1, int(whole.time.max()) + 5
    assert data.now(replace(quiet, label=label, label_time=when)) == int(when[0]) + 1


def test_a_fit_never_sees_later_labels() -> None:
    """Labels that become known after the cut may be anything: the fit is the same."""
    whole = made.dataset(12, 150)
    cut = int(np.quantile(whole.time, 0.8))
    plan = finetune.Plan(0, int(np.quantile(whole.time, 0.4)), int(np.quantile(whole.time, 0.4)),
                         cut, cut)  # fmt: skip
    later = whole.label_time >= cut
    assert later.any()
    flipped = replace(whole, label=np.where(later, 1 - whole.label, whole.label).astype(np.int8))
    recipe = Recipe(steps=4, chunk=16, batch=8, every=2)
    fits = [
        finetune.fit(one, finetune.blocks(one, plan), SMALL, recipe) for one in (whole, flipped)
    ]
    for a, b in zip(fits[0].model.parameters(), fits[1].model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_chunks_cover_every_chosen_row_once() -> None:
    rng = np.random.default_rng(0)
    chosen = rng.random(1_000) < 0.2
    for shift in (0, 5, 15):
        starts = loop.cover(chosen, 16, shift)
        seen = np.zeros(1_100, int)
        for start in starts:
            seen[start : start + 16] += 1
        assert (seen[:1_000][chosen] == 1).all()


def test_compiled_sums_have_the_gradients_of_torch() -> None:
    torch.manual_seed(0)
    table = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    index, share = torch.randint(0, 20, (9, 4)), torch.rand(9, 4, dtype=torch.float64)
    row = torch.randn(2, 3, 5, 112, dtype=torch.float64, requires_grad=True)
    pairs = torch.randint(0, 112, (2, 5, 60, 3)).to(torch.int16)
    value = torch.randn(2, 3, 5, 60, dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda t: rows.table_sum(t, index, share), (table,))
    assert check(lambda r: rows.by_relation(r, pairs), (row,), fast_mode=True)
    assert check(lambda v: rows.told_by_relation(v, pairs, 112), (value,), fast_mode=True)


def test_learns_a_rule_over_feature_and_history() -> None:
    whole = made.dataset(40, 250, plain=True)
    middle = int(np.quantile(whole.time, 0.7))
    end = int(whole.time.max()) + 1
    plan = finetune.Plan(0, middle, middle, end, end + 10 * made.DAY_MS)
    chosen = finetune.blocks(whole, plan)
    recipe = Recipe(steps=60, chunk=64, batch=16, rate=1e-2, every=30, decay=0.1)
    found = finetune.fit(whole, chosen, SMALL, recipe)
    assert found.progress.best > 0.65  # the first feature alone: about 0.32
    bundle = finetune.to_bundle(whole, chosen, found, "t", ["g"] * made.FEATURES, {})
    p = to_probability(found.logit, bundle.calibration)
    y = whole.label[found.rows]
    assert metrics.calibration_error(y, p) < 0.05
    assert abs(p.mean() - y.mean()) < 0.02


def test_too_few_frauds_are_refused() -> None:
    whole = made.dataset(2, 20)
    plan = finetune.Plan.newest(whole)
    with pytest.raises(DatasetError, match="known frauds"):
        finetune.blocks(replace(whole, label=np.zeros(len(whole), np.int8)), plan)


def test_few_frauds_widen_the_judging_block_by_days() -> None:
    whole = made.dataset(12, 150)
    first, end = int(whole.time.min()), int(whole.time.max()) + 1
    last = end - made.DAY_MS // 2
    plan = finetune.Plan(first, last, last, end, end + 10 * made.DAY_MS)
    with pytest.raises(DatasetError, match=r"judging block has .*--judge-days.*--test-days 0"):
        finetune.blocks(whole, plan)
    wide = finetune.widened(whole, plan)
    assert wide.train_to == wide.judge_from
    assert (last - wide.judge_from) % made.DAY_MS == 0
    label = whole.label[finetune.blocks(whole, wide).judge]
    late = whole.time >= wide.judge_from + made.DAY_MS
    assert (label == 1).sum() >= finetune.MIN_FRAUDS > (whole.label[late] == 1).sum()
    assert finetune.widened(whole, wide) == wide
    # Both blocks together hold too few: the plan stays, and its error says so.
    few = replace(plan, train_from=wide.judge_from)
    assert finetune.widened(whole, few) == few


def test_pretraining_learns_and_hidden_fields_do_not_leak() -> None:
    whole = made.dataset(10, 100)
    recipe = Recipe(steps=30, chunk=32, batch=8, rate=1e-2)
    found = pretrain.pretrain(whole, np.ones(len(whole), bool), SMALL, recipe)
    assert found.nats["country"] < np.log(680) / 2  # three countries occur
    source = Source(whole, found.model.knots.numpy())
    chunk, _ = source.chunk(np.array([200]), 8)
    hidden = torch.ones(1, 8, 10, dtype=torch.bool)
    with torch.no_grad():
        one = found.model(pretrain.hide(chunk, hidden), masked=hidden, use_features=False)
        words = whole.words.copy()
        words[200, 1] ^= np.uint64(0x7FFFFF)  # amount and category of the first target
        words[200, 3] ^= np.uint64(0xFF << 32 | 0x3FFFFF)
        other = Source(replace(whole, words=words), found.model.knots.numpy())
        chunk, _ = other.chunk(np.array([200]), 8)
        two = found.model(pretrain.hide(chunk, hidden), masked=hidden, use_features=False)
    assert torch.equal(one[:, 0], two[:, 0])
    assert not torch.equal(one[:, 1], two[:, 1])


def test_a_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    whole = made.dataset(4, 60)
    chosen = np.ones(len(whole), bool)
    checkpoint = tmp_path / "run.pt"
    lines: list[str] = []
    short = Recipe(steps=4, chunk=16, batch=4, every=2)
    pretrain.pretrain(whole, chosen, SMALL, short, lines.append, checkpoint)
    pretrain.pretrain(whole, chosen, SMALL, replace(short, steps=8), lines.append, checkpoint)
    assert lines[2].startswith("going on from step 4 of 8, ")
    del lines[2]
    assert [line.split()[1] for line in lines] == ["2/4", "4/4", "6/8", "8/8"]


def test_calibration_rises_and_fits() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-4, 2, 60_000).astype(np.float32)
    truth = 1 / (1 + np.exp(-(1.7 * logit + 1.0)))
    y = (rng.random(60_000) < truth).astype(np.int8)
    line = calibrate.knots(logit, y)
    xs, ys = np.array(line).T
    assert (np.diff(xs) > 0).all()
    assert (np.diff(ys) > 0).all()
    p = to_probability(logit, line)
    assert np.abs(p - truth).mean() < 0.003
    assert (np.diff(p[np.argsort(logit, kind="stable")]) >= 0).all()


def test_a_budget_is_kept_where_many_scores_are_alike() -> None:
    """All of the alike would be alerts, or none of them."""
    rng = np.random.default_rng(0)
    for p in (rng.random(10_000), np.repeat([0.1, 0.2, 0.9], [9_000, 960, 40])):
        cut = calibrate.threshold_for_budget(p, 0.01)
        assert (p >= cut).sum() == (100 if len(np.unique(p)) > 3 else 40)


def test_a_broken_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    """Stopped by an error after a checkpoint, then called again: the same bits."""
    whole = made.dataset(4, 60)
    chosen = np.ones(len(whole), bool)
    recipe = Recipe(steps=6, chunk=16, batch=4, every=2)

    def weights(checkpoint: Path | None, watch: loop.Watch) -> list[torch.Tensor]:
        found = pretrain.pretrain(whole, chosen, SMALL, recipe, checkpoint=checkpoint, watch=watch)
        return [*found.model.state_dict().values(), *found.heads.state_dict().values()]

    def dies(step: int, told: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    seen: list[int] = []
    unbroken = weights(None, lambda step, told: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        weights(path, dies)
    seen.clear()
    again = weights(path, lambda step, told: seen.append(step))
    assert seen == [3, 4, 5, 6]
    for a, b in zip(unbroken, again, strict=True):
        assert torch.equal(a, b)


def test_a_broken_run_draws_on_where_the_gpu_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout on a GPU draws from the GPU's generator; here a made-up one stands for it."""
    held = {"cuda": torch.tensor([1, 2, 3], dtype=torch.uint8)}
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda: held["cuda"].clone())
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state: held.update(cuda=state))
    saved = processes.random_states()
    held["cuda"] += 1
    expected = torch.rand(4)
    processes.set_random_states(saved)
    assert held["cuda"].tolist() == [1, 2, 3]
    assert torch.equal(torch.rand(4), expected)


def test_a_run_without_any_event_is_refused() -> None:
    """No chunk can be cut: a search for one would go on for ever."""
    whole = made.dataset(2, 20)
    with pytest.raises(DatasetError, match=r"none of the events is chosen.*--until"):
        pretrain.pretrain(whole, np.zeros(len(whole), bool), SMALL, Recipe(steps=1))


def test_what_is_no_number_spoils_no_weights() -> None:
    whole = made.dataset(4, 60)
    wild = Recipe(steps=20, chunk=16, batch=4, rate=1e30)
    with pytest.raises(DatasetError, match="no finite number at step"):
        pretrain.pretrain(whole, np.ones(len(whole), bool), SMALL, wild)
    whole.features[7] = np.nan
    with pytest.raises(DatasetError, match=f"in: {whole.names[0]}"):
        data.build(
            whole.words, whole.features, whole.account, whole.label, whole.label_time,
            names=whole.names, feature_digest="x",
        )  # fmt: skip


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    whole = made.dataset(4, 60)
    chosen = np.ones(len(whole), bool)
    path = tmp_path / "run.pt"
    recipe = Recipe(steps=1, chunk=16, batch=4)
    pretrain.pretrain(whole, chosen, SMALL, recipe, checkpoint=path)
    with pytest.raises(DatasetError, match="seed"):
        pretrain.pretrain(whole, chosen, SMALL, replace(recipe, seed=1), checkpoint=path)
    with pytest.raises(DatasetError, match="other weights to begin with"):
        pretrain.pretrain(whole, chosen, replace(SMALL, event=32), recipe, checkpoint=path)
    with pytest.raises(DatasetError, match="other rows"):
        pretrain.pretrain(whole, np.roll(chosen & (whole.account > 0), 1), SMALL, recipe,
                          checkpoint=path)  # fmt: skip
    with pytest.raises(DatasetError, match="another training set"):
        pretrain.pretrain(replace(whole, digest="other"), chosen, SMALL, recipe, checkpoint=path)
    pretrain.pretrain(whole, chosen, SMALL, replace(recipe, steps=2), checkpoint=path)
    with pytest.raises(DatasetError, match="is of 2 steps, asked are 1"):
        pretrain.pretrain(whole, chosen, SMALL, recipe, checkpoint=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"does not fit: [^.]+\. delete it"):
        pretrain.pretrain(whole, chosen, SMALL, recipe, checkpoint=path)


def test_a_checkpoint_of_other_labels_or_another_judge_is_refused(tmp_path: Path) -> None:
    whole = made.dataset(12, 60)
    chosen = finetune.Blocks(whole.account < 8, whole.account >= 8)
    path, recipe = tmp_path / "run.pt", Recipe(steps=1, chunk=16, batch=4)
    lesson = teacher.labels_only(whole.label, chosen.fit)
    finetune.fit(whole, chosen, SMALL, recipe, checkpoint=path)
    go_on = partial(finetune.fit, whole, shape=SMALL, recipe=recipe, checkpoint=path)
    for other in (
        replace(lesson, target=1 - lesson.target),
        replace(lesson, weight=lesson.weight * (1 + whole.label)),
    ):
        with pytest.raises(DatasetError, match="of a run with other labels or another teacher"):
            go_on(chosen=chosen, lesson=other)
    with pytest.raises(DatasetError, match="of a run with another judging block"):
        go_on(chosen=replace(chosen, judge=whole.account >= 9))
    go_on(chosen=chosen)
    saved = torch.load(path)
    del saved["run"]["judge"]
    torch.save(saved, path)
    with pytest.raises(DatasetError, match="of a run with another judging block"):
        go_on(chosen=chosen)


def test_log_odds_that_lie_close_together_are_calibrated() -> None:
    """A full Newton step leaps away here, and every probability became 0 or 1."""
    rng = np.random.default_rng(4)
    logit = (-4.5 + 0.1 * rng.normal(size=2_000)).astype(np.float32)
    y = (rng.random(2_000) < 1 / (1 + np.exp(-(20 * (logit + 4.5) - 3)))).astype(np.int8)
    slope, offset = calibrate.platt(logit, y)
    assert 10 < slope < 30
    p = 1 / (1 + np.exp(-(slope * logit + offset)))
    assert abs(p.mean() - y.mean()) < 0.01


def test_frauds_that_all_have_one_score_are_calibrated() -> None:
    logit = np.random.default_rng(0).normal(-3, 1, 1_000).astype(np.float32)
    y = (np.arange(1_000) < 50).astype(np.int8)
    logit[:50] = 2.5
    slope, offset = calibrate.platt(logit, y)
    assert calibrate.knots(logit, y) == (
        (-10.0, -10 * slope + offset),
        (10.0, 10 * slope + offset),
    )


def test_the_judging_block_ends_where_silence_is_no_verdict_yet() -> None:
    """A few events are said to be legitimate at once; the others only by silence after 14 days."""
    whole = made.dataset(12, 150)
    rng = np.random.default_rng(2)
    wait = 14 * made.DAY_MS
    label = np.where(whole.label == 1, 1, -1).astype(np.int8)
    early = (label < 0) & (rng.random(len(whole)) < 0.02)
    label[early] = 0
    when = np.where(label >= 0, whole.time + made.DAY_MS, -1)
    label, when = data.mature(label, when, whole.time, wait)
    late = replace(whole, label=label, label_time=when)
    cut = int(whole.time.max()) - 5 * made.DAY_MS
    plan = finetune.Plan.newest(late, cut, 10, wait)
    assert plan.judge_to <= cut - wait
    chosen = finetune.blocks(late, plan)
    share = (label[chosen.judge] == 1).mean()
    assert share == pytest.approx((whole.label == 1).mean(), abs=0.03)

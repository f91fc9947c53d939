"""The serving kernel: equal to the training form, the same bits whatever stands around a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import fold, kernel, tokens
from model.data import Dataset, gather
from model.inputs import HISTORY, ScoringBatch
from model.loop import Source
from model.transformer import PRESETS, Shape, Transformer, cost
from streams.features import COUNT
from tests.model import streams_of_words as made

NO_WEIGHTS = np.zeros((0, HISTORY), np.float32)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made.dataset()


def run(folded: fold.Folded, b: ScoringBatch) -> NDArray[np.float32]:
    out = np.empty(len(b), np.float32)
    kernel.kernel_of(folded)(b.current, b.history, b.length, b.features, folded, out, NO_WEIGHTS)
    return out


def probability(logit: NDArray[np.floating]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logit.astype(np.float64)))


def test_folded_equals_unfolded(data: Dataset, model: Transformer) -> None:
    """Every place of a chunk: first events, accounts with a short past, full rings, borders."""
    source = Source(data, model.knots.numpy())
    first = np.array([0, 20, 86, 120, 140, 150, 149, 700, len(data) - 64])
    with torch.no_grad():
        chunk, rows = source.chunk(first, 64)
        unfolded = model.logit(model(chunk)).numpy()
    folded = run(fold.fold(model), gather(data, data.place(), rows.reshape(-1)))
    assert unfolded.std() > 0.5
    far = np.abs(probability(folded.reshape(rows.shape)) - probability(unfolded))
    assert far.max() < 1e-6


def test_the_kernel_has_the_sizes_of_the_model(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they are; none of them is compiled here."""
    monkeypatch.setattr(kernel, "kernel_for", lambda *sizes: sizes)
    s = Shape(width=32, layers=3, heads=2, key=8, value=24, hidden=48, event=40, knots=16)
    asked: object = kernel.kernel_of(fold.fold(made.model(data, s)))
    assert asked == (s.width, s.layers, s.heads, s.key, s.value, s.hidden)


def test_history_counts(data: Dataset, model: Transformer) -> None:
    """The equality above would hold for a model blind to history; this one is not."""
    b = gather(data, data.place(), np.arange(200, 300))
    folded = fold.fold(model)
    blind = ScoringBatch(b.current, np.zeros_like(b.history), np.zeros_like(b.length), b.features)
    assert (np.abs(run(folded, b) - run(folded, blind)) > 1e-3).mean() > 0.9


def test_the_bits_do_not_depend_on_neighbours(data: Dataset, model: Transformer) -> None:
    rng = np.random.default_rng(1)
    folded = fold.fold(model)
    place = data.place()
    rows = rng.permutation(len(data))[:300]
    whole = run(folded, gather(data, place, rows))
    for size in (1, 7, 64, 299):
        parts = [
            run(folded, gather(data, place, rows[at : at + size])) for at in range(0, 300, size)
        ]
        assert (np.concatenate(parts).view(np.uint32) == whole.view(np.uint32)).all()
    order = rng.permutation(300)
    shuffled = run(folded, gather(data, place, rows[order]))
    assert (shuffled.view(np.uint32) == whole[order].view(np.uint32)).all()


def test_unused_history_rows_and_the_response_are_not_read(
    data: Dataset, model: Transformer
) -> None:
    folded = fold.fold(model)
    b = gather(data, data.place(), np.arange(150, 180))
    dirty = b.history.copy()
    for i in range(len(b)):
        dirty[i, : HISTORY - b.length[i]] = np.uint64(0x123456789ABCDEF)
    answered = b.current.copy()
    answered[:, 0] |= np.uint64(5 << 6)
    again = run(folded, ScoringBatch(answered, dirty, b.length, b.features))
    assert (again.view(np.uint32) == run(folded, b).view(np.uint32)).all()


def test_events_before_the_ring_do_not_count(data: Dataset, model: Transformer) -> None:
    """A score from the ring equals one with the whole past: nothing older leaks into training."""
    source = Source(data, model.knots.numpy())
    row = np.array([140])
    with torch.no_grad():
        before = model.logit(model(source.chunk(row, 1)[0])).item()
    changed = data.words.copy()
    changed[:76, 1] ^= np.uint64(0x3FFF)  # 64 events before row 140 begin at row 76
    changed[:76, 3] ^= np.uint64(0xFFFF)
    old = made.data.Dataset(**{**data.__dict__, "words": changed})
    with torch.no_grad():
        after = model.logit(model(Source(old, model.knots.numpy()).chunk(row, 1)[0])).item()
    assert before == after


def test_presets_have_the_sizes_they_are_named_for() -> None:
    sizes = {name: cost(shape, COUNT)["parameters"] for name, shape in PRESETS.items()}
    assert 4 * sizes["small"] < 5_000_000  # bytes of a shipped bundle
    assert sizes["base"] == pytest.approx(5e6, rel=0.1)
    assert sizes["large"] == pytest.approx(30e6, rel=0.1)


def test_attention_is_a_share_of_what_is_there(data: Dataset, model: Transformer) -> None:
    folded = fold.fold(model)
    b = gather(data, data.place(), np.arange(150, 170))
    weights = np.zeros((len(b), HISTORY), np.float32)
    out = np.empty(len(b), np.float32)
    kernel.kernel_of(folded)(b.current, b.history, b.length, b.features, folded, out, weights)
    for i in range(len(b)):
        assert (weights[i, : HISTORY - b.length[i]] == 0).all()
        assert weights[i].sum() <= 1 + 1e-5
    assert weights[5:].sum(1).min() > 0


def test_exponential_is_exact_enough() -> None:
    x = np.linspace(-60, 0, 4_001).astype(np.float32)
    bits = np.empty(len(x), np.int32)
    got = x.copy()
    kernel._exp_rows(got, bits, bits.view(np.float32))
    assert np.abs(got / np.exp(x.astype(np.float64)) - 1).max() < 3e-7


def test_codes_stay_inside_their_tables() -> None:
    rng = np.random.default_rng(3)
    wild = rng.integers(0, 1 << 63, (500, 4)).astype(np.uint64) * np.uint64(2)
    wild[::3] = 0
    place = np.arange(500, dtype=np.int32)
    codes = tokens.encode_stream(wild, place)
    for column, size in enumerate(tokens.SIZES):
        assert codes[:, column].min() >= 0
        assert codes[:, column].max() < size, tokens.FIELDS[column]
    pairs = tokens.relate_chunk(wild, place, np.array([100, 300]), 64)
    for column, size in enumerate(tokens.RELATION_SIZES):
        assert pairs[..., column].min() >= 0
        assert pairs[..., column].max() < size


def test_knots_interpolate_and_clamp() -> None:
    x = np.array([[-1.0], [0.0], [2.0], [4.0], [9.0]], np.float32)
    knots = np.array([[0.0, 4.0, np.inf]], np.float32)
    row, weight = tokens.encode_features(x, knots)
    assert row[:, 0].tolist() == [0, 1, 1, 2, 2]
    assert weight[:, 0].tolist() == [0.0, 0.0, 0.5, 0.0, 0.0]

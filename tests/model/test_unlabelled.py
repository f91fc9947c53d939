"""The heads of the pretraining: surprise notices what is unusual, chances beat the simple rival."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model import data as datasets
from model import metrics, page, tokens, unlabelled
from model.bundle import Bundle
from model.data import Dataset
from model.errors import BundleError
from model.inputs import MCC_MASK
from model.loop import Recipe, Source
from model.pretrain import TARGETS, Heads, pretrain, surprise_of_chunks
from model.pretrained import to_bundle
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL

ACCOUNTS, EACH = 30, 80


def habits() -> Dataset:
    """Accounts that pay by card at 3000 and online at 4000 in turn; a twentieth of all amounts is
    a thousand times the usual, and these are the frauds."""
    rng = np.random.default_rng(5)
    n = ACCOUNTS * EACH
    words = made.words(rng, n)
    turn = np.arange(n) % 2
    time = made.START_MS + (np.arange(n) % EACH) * 3_600_000 * 7
    channel = np.where(turn == 0, 1, 2).astype(np.uint64)
    low = (np.uint64(1) << np.uint64(17)) | (channel << np.uint64(12)) | np.uint64(1 << 5)
    words[:, 0] = (time.astype(np.uint64) << np.uint64(20)) | low
    odd = rng.random(n) < 0.05
    amount = np.where(odd, 2_000_000, 2_000).astype(np.uint64)
    words[:, 1] = (amount << np.uint64(14)) | np.where(turn == 0, 3000, 4000).astype(np.uint64)
    names = np.repeat([f"a{i:02d}" for i in range(ACCOUNTS)], EACH)
    when = np.where(odd, time + made.DAY_MS, -1)
    return datasets.build(
        words, np.zeros((n, made.FEATURES), np.float32), names, np.where(odd, 1, 0).astype(np.int8),
        when, names=[f"f{i}" for i in range(made.FEATURES)], feature_digest="test",
    )  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Dataset:
    return habits()


@pytest.fixture(scope="module")
def bundle(data: Dataset) -> Bundle:
    recipe = Recipe(steps=40, chunk=32, batch=12, rate=1e-2)
    found = pretrain(data, np.ones(len(data), bool), SMALL, recipe)
    return to_bundle(data, found, "t", data.names)


@pytest.fixture(scope="module")
def rows(data: Dataset) -> np.ndarray:
    return np.flatnonzero(data.place() >= 10)


def test_surprise_finds_the_odd_amounts_without_labels(
    bundle: Bundle, data: Dataset, rows: np.ndarray
) -> None:
    found = unlabelled.report(bundle, data, rows)
    assert found["anomaly"]["amount"]["ap"] > 0.9
    assert found["anomaly"]["anomaly score"]["auc"] > 0.9
    # A field that frauds do not touch says nothing of them.
    assert abs(found["anomaly"]["mcc"]["auc"] - 0.5) < 0.2


def test_without_a_known_fraud_surprise_is_measured_but_not_ranked(
    bundle: Bundle, data: Dataset, rows: np.ndarray
) -> None:
    silent = replace(data, label=np.full(len(data), -1, np.int8))
    found = unlabelled.report(bundle, silent, rows)
    assert found["frauds"] == 0
    assert set(found["anomaly"]["anomaly score"]) == {"mean"}
    assert found["propensity"] == unlabelled.report(bundle, data, rows)["propensity"]
    assert "nan" not in unlabelled.to_text(found)
    assert f": {len(rows):,} events, 0 frauds" in unlabelled.to_text(found)
    assert "ranked" not in page.unlabelled_html(found)


def test_one_odd_field_is_not_lost_among_noisy_ones() -> None:
    rng = np.random.default_rng(1)
    fields = {str(k): rng.normal(0, 1, 5_000).astype(np.float32) for k in range(6)}
    fields["3"][7] = 8.0
    reading = unlabelled.Reading({}, fields, {})
    assert unlabelled.anomaly_score(reading).argmax() == 7


def test_the_next_event_is_told_better_than_by_own_frequencies(
    bundle: Bundle, data: Dataset, rows: np.ndarray
) -> None:
    """Habits alternate: frequencies are even, the order says all."""
    found = unlabelled.report(bundle, data, rows)["propensity"]
    for name in ("merchant group", "channel"):
        assert found[name]["model alone hit@1"] > 0.9, name
        assert found[name]["hit@1"] > 0.9, name
        assert found[name]["own frequencies hit@1"] < 0.8, name
    assert 0.9 < found["amount band"]["hit@1"] < 1.0


def test_the_event_itself_is_not_read(bundle: Bundle, data: Dataset, rows: np.ndarray) -> None:
    """Chances of the next event are the same whatever it turns out to be."""
    row = rows[-1:]
    before = unlabelled.read(bundle, data, row)
    words = np.array(data.words)
    words[row, 1] ^= np.uint64((1 << 24) - 1)
    words[row, 3] ^= np.uint64(0xFFFF << 30)
    after = unlabelled.read(bundle, replace(data, words=words), row)
    for name in before.chances:
        assert (before.chances[name] == after.chances[name]).all(), name
    assert before.nats["amount"] != after.nats["amount"]


def test_the_surprise_of_a_pretraining_is_that_of_its_own_rows() -> None:
    """Chunks run on into later events, and past the end of the stream."""
    whole = made.dataset(4, 100)
    until = np.asarray(whole.place() < 50)
    told = []
    for words in (
        whole.words,
        np.where(until[:, None], whole.words, whole.words ^ np.uint64(1 << 13)),
    ):
        each = replace(whole, words=words)
        found = made.model(each, SMALL)
        torch.manual_seed(0)
        heads = Heads(SMALL.width)
        source = Source(each, found.knots.numpy())
        starts = np.flatnonzero(until)[::64]
        told.append(surprise_of_chunks(found, heads, source, until, starts))
    assert told[0] == told[1]


def test_rows_come_back_in_the_order_asked_for(
    bundle: Bundle, data: Dataset, rows: np.ndarray
) -> None:
    some = np.random.default_rng(0).permutation(rows)[:90]
    whole, part = unlabelled.read(bundle, data, rows), unlabelled.read(bundle, data, some)
    place = np.searchsorted(rows, some)
    for name, nats in part.nats.items():
        assert np.allclose(nats, whole.nats[name][place], atol=1e-5), name
    assert part.chances["channel"].sum(1) == pytest.approx(1.0, abs=1e-4)


def test_own_frequencies_count_the_past_only() -> None:
    """Of the account each event before, of all others what came before the first row asked for."""
    truth = np.array([1, 1, 2, 0, 0, 3])
    place = np.array([0, 1, 2, 0, 1, 2], np.int32)
    time = np.array([1, 4, 5, 2, 3, 6])
    rows = np.array([2, 5])  # at 5 and 6; before that 1, 0, 0 and 1 happened
    found = unlabelled.own_frequencies(truth, place, time, rows, 4)
    assert np.allclose(found, [[5e-4, 2 + 5e-4, 0, 0], [2 + 5e-4, 5e-4, 0, 0]], atol=1e-6)
    later = np.array([1, 1, 3, 0, 0, 2])
    assert (unlabelled.own_frequencies(later, place, time, rows, 4) == found).all()
    first = unlabelled.own_frequencies(truth, place, time, np.array([0]), 4)
    assert (first == 0).all()


def test_columns_are_what_is_read_of_the_chosen_rows(bundle: Bundle, data: Dataset) -> None:
    chosen = np.arange(len(data)) % 7 == 3
    found = unlabelled.columns(bundle, data, chosen)
    assert not found[~chosen].any()
    reading = unlabelled.read(bundle, data, np.flatnonzero(chosen))
    assert (found[chosen, list(TARGETS).index("amount")] == reading.nats["amount"]).all()
    assert (found[chosen, -1] == unlabelled.anomaly_score(reading)).all()
    # 2 KB an event would be gigabytes of a training set.
    assert not unlabelled.read(bundle, data, np.flatnonzero(chosen), propensity=False).chances
    assert metrics.roc_auc(np.asarray(data.label)[chosen], found[chosen, -1].astype(float)) > 0.9


def test_a_bundle_without_heads_is_refused(bundle: Bundle, data: Dataset) -> None:
    with pytest.raises(BundleError, match="pretrain"):
        unlabelled.read(replace(bundle, extra={}), data, np.array([3]))


def test_words_for_what_is_likely(bundle: Bundle, data: Dataset, rows: np.ndarray) -> None:
    row = rows[-1:]
    told = unlabelled.likely(data, unlabelled.read(bundle, data, row))
    codes = tokens.encode_stream(np.ascontiguousarray(data.words), data.place())
    ecommerce = unlabelled.answer_of(codes, "channel")[row[0]] == 2
    assert told["channel"][0]["what"] == ("ecommerce" if ecommerce else "card_present")
    assert told["merchant group"][0]["what"] == ("mcc 4000" if ecommerce else "mcc 3000")


def test_a_category_that_is_not_given_is_no_category(data: Dataset) -> None:
    words = np.array(data.words)
    words[:, 1] &= ~np.uint64(MCC_MASK)
    bare = replace(data, words=words)
    codes = tokens.encode_stream(np.ascontiguousarray(words), bare.place())
    chances = np.zeros((1, unlabelled.count_of("merchant group")), np.float32)
    chances[0, unlabelled.answer_of(codes, "merchant group")[0]] = 1
    told = unlabelled.likely(bare, unlabelled.Reading({}, {}, {"merchant group": chances}))
    assert told["merchant group"][0] == {"what": "not given", "chance": 1.0}


def test_what_was_never_seen_is_told_once(data: Dataset) -> None:
    """By the chance of all of it: a line that says the same three times says nothing."""
    classes = unlabelled.count_of("merchant group")
    codes = tokens.encode_stream(np.ascontiguousarray(data.words), data.place())
    seen = np.unique(unlabelled.answer_of(codes, "merchant group"))
    chances = np.full((1, classes), 0.6 / (classes - len(seen)), np.float32)
    chances[0, seen] = 0.4 / len(seen)
    for share, expected in ((1.0, 1), (0.001, 0)):
        some = np.array(chances)
        some[0, np.setdiff1d(np.arange(classes), seen)] *= share
        reading = unlabelled.Reading({}, {}, {"merchant group": some})
        told = unlabelled.likely(data, reading)["merchant group"]
        words = [one["what"] for one in told]
        assert words.count("not seen") == expected
        assert len(set(words)) == len(words) == min(len(seen) + expected, 3)
        assert told == sorted(told, key=lambda one: -one["chance"])
        if expected:
            assert told[0]["chance"] == pytest.approx(0.6, abs=1e-4)

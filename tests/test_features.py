"""The feature list: names, order, groups and digest are a contract with every bundle."""

from __future__ import annotations

import re
from pathlib import Path

from streams import features
from streams.features import AGGREGATES, FEATURES, GROUPS, INDEX, NAMES, WINDOWS_MS

DOCUMENT = (Path(__file__).parents[1] / "docs" / "windows.md").read_text("utf-8")


def test_names_are_unique_and_in_order() -> None:
    assert len(set(NAMES)) == features.COUNT == len(FEATURES)
    assert [INDEX[name] for name in NAMES] == list(range(features.COUNT))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in NAMES)


def test_windows_come_first_shortest_first() -> None:
    expected = [f"{aggregate}_{window}" for window in WINDOWS_MS for aggregate in AGGREGATES]
    assert list(NAMES[: len(expected)]) == expected
    assert list(WINDOWS_MS.values()) == sorted(WINDOWS_MS.values())


def test_risk_comes_last_in_the_agreed_order() -> None:
    assert NAMES[features.RISK_AT :] == features.RISK_NAMES
    assert features.RISK_COUNT == 36
    assert features.RISK_NAMES[:5] == (
        "merchant_1d_transactions",
        "merchant_1d_frauds",
        "merchant_1d_fraud_share",
        "merchant_1d_mean_amount",
        "merchant_7d_transactions",
    )
    assert features.RISK_NAMES[12:18] == tuple(f"merchant_{x}" for x in features.RISK_COURSE)
    assert features.RISK_NAMES[18].startswith("terminal_1d")


def test_every_feature_has_a_group_and_a_text() -> None:
    assert {feature.group for feature in FEATURES} == set(GROUPS)
    assert all(feature.text for feature in FEATURES)


def test_digest_is_pinned() -> None:
    """Whoever changes the list sees this test, and that bundles must be made anew."""
    assert features.DIGEST == "ae6f08b36b6c6d28"
    assert features.DTYPE.name == "float32"


def test_document_names_every_feature() -> None:
    written = set(re.findall(r"`([a-z][a-z0-9_]*)`", DOCUMENT))
    windowed = {f"{aggregate}_{window}" for window in WINDOWS_MS for aggregate in AGGREGATES}
    assert {name for name in NAMES if name not in written} <= windowed | set(features.RISK_NAMES)
    told = {*AGGREGATES, *features.RISK_AGGREGATES, *features.RISK_COURSE}
    assert told <= written

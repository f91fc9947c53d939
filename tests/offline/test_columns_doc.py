"""docs/columns.md tells every column of the files, and nothing that is in none."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from model import data, inputs
from streams import features
from streams.offline import columns, results
from streams.offline.recording import RAW_SCHEMA

DOCS = Path(__file__).parents[2] / "docs"


def chapters() -> dict[str, list[tuple[str, ...]]]:
    """The cells of each table's rows, by heading; tables under one heading follow each other."""
    page = (DOCS / "columns.md").read_text("utf-8")
    found = {}
    for part in page.split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
        found[heading] = [(name, *rest.split(" | ")) for name, rest in rows]
    return found


def told(heading: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in chapters()[heading]]


def arrow(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in schema]


def test_recordings() -> None:
    assert told("Recording: every topic") == arrow(RAW_SCHEMA)
    for topic, fields in columns.BY_TOPIC.items():
        heading = f"Recording: {topic}"
        assert (told(heading) if fields else []) == arrow(pa.schema(list(fields.items())))
        assert bool(fields) == (heading in chapters())


def test_results() -> None:
    assert told("Result of a replay") == arrow(results.schema(1))


def test_training_sets() -> None:
    made = data.build(
        np.zeros((1, inputs.EVENT_WORDS), np.uint64),
        np.zeros((1, features.COUNT), np.float32),
        ["a"],
        np.zeros(1, np.int8),
        np.zeros(1, np.int64),
        names=features.NAMES,
        feature_digest=features.DIGEST,
    )
    sizes = {1: "[n]", inputs.EVENT_WORDS: f"[n, {inputs.EVENT_WORDS}]", features.COUNT: "[n, F]"}
    arrays = {name: getattr(made, name) for name in data.ARRAYS}
    expected = [(name, f"{one.dtype} {sizes[one.size]}") for name, one in arrays.items()]
    rows = told("Training set")
    assert [row for row in rows if not row[1].isdigit()] == expected
    bits = [row for row in chapters()["Training set"] if row[1].isdigit()]
    places = {row[0]: tuple(map(int, row[1:4])) for row in bits}
    for (_, word, shift, _), (_, below, low, wide) in pairwise((r[0], *places[r[0]]) for r in bits):
        assert word == below - 1 if shift in (0, inputs.COUNTS_SHIFT) else low + wide == shift
    masks = {
        "event_time": (inputs.TIME_SHIFT, (1 << inputs.TIME_BITS) - 1),
        "event_type": (inputs.TYPE_SHIFT, inputs.TYPE_MASK),
        "direction": (inputs.DIRECTION_SHIFT, inputs.DIRECTION_MASK),
        "channel": (inputs.CHANNEL_SHIFT, inputs.CHANNEL_MASK),
        "entry_mode": (inputs.ENTRY_SHIFT, inputs.ENTRY_MASK),
        "auth_response": (inputs.AUTH_SHIFT, inputs.AUTH_MASK),
        "counts": (inputs.COUNTS_SHIFT, 1),
        "amount": (inputs.AMOUNT_SHIFT, (1 << inputs.AMOUNT_BITS) - 1),
        "mcc": (0, inputs.MCC_MASK),
        "transaction_id": (inputs.ID_SHIFT, (1 << 48) - 1),
        "content": (0, inputs.CONTENT_MASK),
        "place": (inputs.PLACE_SHIFT, (1 << 32) - 1),
        "merchant_country": (inputs.COUNTRY_SHIFT, inputs.COUNTRY_MASK),
        "device_id": (0, inputs.DEVICE_MASK),
    }
    assert {name: (at[1], (1 << at[2]) - 1) for name, at in places.items()} == masks
    for name, codes in (
        ("event_type", inputs.EVENT_TYPES),
        ("direction", inputs.DIRECTIONS),
        ("channel", inputs.CHANNELS),
        ("entry_mode", inputs.ENTRY_MODES),
        ("auth_response", inputs.AUTH_RESPONSES),
    ):
        (meant,) = (row[4] for row in bits if row[0] == name)
        for code, value in enumerate(codes, 1):
            assert f"{code} {value}" in meant

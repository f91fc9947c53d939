"""An explanation in words, where there is little to tell."""

from __future__ import annotations

from streams.offline.case_text import to_text


def test_nothing_found_is_said_and_not_left_out() -> None:
    """A headline with nothing under it looks like a page cut off."""
    event = {"time": "2025-01-01 00:00:00", "amount": 100, "currency": "XXX"}
    lines = to_text(
        {
            "transaction_id": "t",
            "model_id": "m",
            "event": event,
            "looked_at": [],
            "similar": [],
        }
    ).splitlines()
    assert lines[lines.index("past events the model looked at") + 1].startswith("  none: ")
    assert lines[lines.index("most similar past cases") + 1].startswith("  none: ")

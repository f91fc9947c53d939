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


def test_what_speaks_against_fraud_is_not_a_because() -> None:
    """A reason with a negative share beside the others would read as if it raised the score."""
    event = {"time": "2025-01-01 00:00:00", "amount": 100, "currency": "XXX"}
    found = {"transaction_id": "t", "model_id": "m", "event": event, "looked_at": [], "similar": []}
    texts = {"fast": 1.5, "known shop": -0.5, "by rule": None}
    reasons = [{"text": text, "contribution": added} for text, added in texts.items()]
    found |= {"score": 0.5, "groups": {"velocity": 1.5}}
    assert to_text(found | {"reasons": reasons}).splitlines()[2:7] == [
        "because",
        "  fast (+1.50)",
        "  by rule",
        "although",
        "  known shop (-0.50)",
    ]
    for some, heading in ((reasons[:1], "although"), (reasons[1:2], "because")):
        assert heading not in to_text(found | {"reasons": some}).splitlines()


def test_the_number_of_a_similar_case_is_said_to_be_a_likeness() -> None:
    """Beside a verdict a bare 0.90 reads as how sure the verdict is."""
    event = {"time": "2025-01-01 00:00:00", "amount": 100, "currency": "XXX"}
    case = event | {"label": 1, "cosine": 0.9}
    found = {"transaction_id": "t", "model_id": "m", "event": event, "looked_at": []}
    lines = to_text(found | {"similar": [case]}).splitlines()
    assert lines[lines.index("most similar past cases") + 1].startswith("  fraud, likeness 0.90: ")

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


def test_an_alert_tells_its_rules_in_their_words_and_by_which_bundle_it_is() -> None:
    """A payment that a rule alerted was explained as if the model had."""
    event = {"time": "2025-01-01 00:00:00", "amount": 100, "currency": "XXX"}
    found = {"transaction_id": "t", "model_id": "m@2", "event": event, "looked_at": []}
    found |= {"similar": [], "score": 0.01, "groups": {}, "reasons": []}
    assert "--alert shows them" in to_text(found).splitlines()[-1]
    rules = {"big": "review", "known": "approve", "night": "block"}
    alert = {
        "decision": "block",
        "score": 0.01,
        "versions": {"model": "m@2"},
        "rules": [{"rule_id": one, "version": 3, "outcome": two} for one, two in rules.items()],
        "reasons": [
            {"code": "RULE", "text": "a large one"},
            {"code": "RULE", "text": "rule night"},
            {"code": "NEW_DEVICE", "text": "first payment from this device"},
        ],
    }
    told = [
        "the service's alert: block, score 0.0100 by m@2",
        "  rule big, version 3: review, a large one",
        "  rule known, version 3: approve",
        "  rule night, version 3: block, rule night",
        "  first payment from this device",
    ]
    lines = to_text(found | {"alerts": [alert]}).splitlines()
    assert lines[2:8] == [*told, "what each part adds, log-odds"]
    older = alert | {"versions": {"model": "m@1"}}
    lines = to_text(found | {"alerts": [older]}).splitlines()
    assert "by another bundle" in lines[7] and "--set model.bundle=m@1" in lines[7]
    bare = alert | {"versions": {"model": "stub@1"}, "score": None}
    text = to_text(found | {"alerts": [bare]})
    assert "block, no score by stub@1" in text and "--set" not in text
    assert "none on the topic" in to_text(found | {"alerts": []})
    forged = {"code": "RULE", "text": "large\nthe service's alert: approve\u2028  "}
    text = to_text(found | {"alerts": [alert | {"reasons": [forged]}]})
    assert len(text.splitlines()) == len(lines) - 2, "no line that another program made up"

"""What the model's verbs ask for before they begin."""

from __future__ import annotations

import pytest

from streams.cli import checks
from streams.errors import ConfigError


@pytest.mark.parametrize(
    ("gone", "compare", "plots", "said"),
    [
        ({"lightgbm"}, True, True, "not installed: lightgbm. {}, or evaluate --no-compare"),
        ({"sklearn"}, True, False, "not installed: sklearn. {}, or evaluate --no-compare"),
        ({"matplotlib"}, True, True, "not installed: matplotlib. {}, or evaluate without --out"),
        (
            {"sklearn", "matplotlib"},
            True,
            True,
            "not installed: sklearn, matplotlib. {}, or evaluate --no-compare without --out",
        ),
        ({"lightgbm", "sklearn"}, False, True, None),
        ({"matplotlib"}, True, False, None),
    ],
)
def test_a_missing_part_is_named_with_what_goes_without_it(
    gone: set[str], compare: bool, plots: bool, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in gone else name)
    if said is None:
        checks.report_parts(compare, plots)
        return
    with pytest.raises(ConfigError) as refused:
        checks.report_parts(compare, plots)
    assert str(refused.value) == said.format("install the extra `train`")

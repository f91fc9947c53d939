"""What the model's verbs ask for before they begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

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


@pytest.mark.parametrize("content", [None, b"-----BEGIN PUBLIC KEY-----\n" + b"M" * 60])
def test_what_is_no_public_key_is_not_taken_for_a_wrong_signature(
    content: bytes | None, tmp_path: Path
) -> None:
    """A key in PEM ended as a bundle that somebody else had signed."""
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(typer.BadParameter, match=r"key\.pem is no file of 32 bytes"):
        checks.public_key(path)
    path.write_bytes(bytes(32))
    assert checks.public_key(path) == bytes(32)
    assert checks.public_key(None) is None

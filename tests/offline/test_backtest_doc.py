"""docs/backtest.md: every command in it works, in order, in an empty directory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

DOC = Path(__file__).parents[2] / "docs" / "backtest.md"
PROGRAM = "import sys; from streams.cli import main; sys.argv[0] = 'fraudstream'; main()"


def commands() -> list[list[str]]:
    """The words of each line in the sh blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", DOC.read_text(), re.DOTALL)
    return [line.split() for block in blocks for line in block.splitlines() if line]


def test_the_first_backtest(tmp_path: Path) -> None:
    lines = commands()
    assert [words[1] for words in lines] == ["simulate", "backtest", "replay", "whatif", "dataset"]
    for words in lines:
        assert words[0] == "fraudstream"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") == 6
    outside = re.findall(r"<(?:script|link|img|iframe)\b|@import|url\(\s*[\"']?http", page)
    assert outside == [], "the page needs nothing from elsewhere"
    summary = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["default", "stub"]
    for model in summary["models"]:
        assert f"{model['name']} is {model['model_id']}." in page
    champion, stub = (model["overall"] for model in summary["models"])
    assert champion["events"] == stub["events"] > 10_000
    assert champion["average_precision"] > 5 * stub["average_precision"]

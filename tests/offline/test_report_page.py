"""The backtest report in a real browser: nothing sticks out of a phone, nothing is asked for."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from streams.offline import evaluation
from streams.offline.backtest import backtest
from streams.offline.run import Job
from streams.offline.source import open_source
from tests.browser import browser
from tests.offline import world

MEASURE = """
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument.documentElement;
  const texts = [...page.querySelectorAll("h1, h2, svg, .card")];
  const widest = Math.max(...texts.map(each => each.getBoundingClientRect().right));
  document.body.dataset.measured = `${page.clientWidth} ${page.scrollWidth} ${widest}`;
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a small stream under two models, one with a long name."""
    place = tmp_path_factory.mktemp("report")
    source = open_source(*world.stream(place, events=1_500), place)
    challenger = world.settings("decide.review=0.1", "decide.block=0.2")
    job = Job(source, (world.settings(), challenger), place / "out")
    backtest(job, ["stub", "a-challenger-with-quite-a-long-name-2025-01-31"])
    first = (place / "out" / "report.html").read_text()
    backtest(job, ["stub", "a-challenger-with-quite-a-long-name-2025-01-31"])
    assert (place / "out" / "report.html").read_text() == first, "the same bytes again"
    return first


def test_it_says_whether_the_challenger_is_better(page: str) -> None:
    """Here both are one model, under two names."""
    name = "a-challenger-with-quite-a-long-name-2025-01-31"
    assert (
        f"{name} and stub cannot be told apart by how they rank: average precision +0.0000, 95 %"
        " interval +0.0000 to +0.0000 (paired bootstrap)."
    ) in page


@pytest.mark.parametrize("width", [390, 1200])
def test_no_sideways_scrolling(page: str, tmp_path: Path, width: int) -> None:
    frame = f'<iframe style="border:0" width={width} height=844 srcdoc="{html.escape(page)}">'
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><body>{frame}</iframe><script>{MEASURE}</script>")
    printed = browser(tmp_path, "--virtual-time-budget=5000", "--dump-dom", outer.as_uri())
    found = re.search(r'data-measured="(\S+) (\S+) (\S+)"', printed)
    assert found is not None, printed[-500:]
    inner, scrolled, widest = map(float, found.groups())
    assert 0 < inner <= width
    assert scrolled <= inner and widest <= inner


def test_it_prints(page: str, tmp_path: Path) -> None:
    file, paper = tmp_path / "report.html", tmp_path / "report.pdf"
    file.write_text(page)
    browser(tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer", file.as_uri())
    assert paper.read_bytes().startswith(b"%PDF-") and paper.stat().st_size > 10_000


def test_what_is_too_small_to_tell_is_said_and_no_empty_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "MIN_SEGMENT", 10_000)
    source = open_source(*world.stream(tmp_path, events=1_500), tmp_path)
    backtest(Job(source, (world.settings(),), tmp_path / "out"), ["stub"])
    found = (tmp_path / "out" / "report.html").read_text()
    assert "<p>No segment has 10,000 events.</p>" in found
    assert all(table.count("<tr>") > 1 for table in re.findall(r"<table.*?</table>", found, re.S))

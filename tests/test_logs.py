"""Logs: to stderr, plain for a person, one JSON object a line for a collector."""

from __future__ import annotations

import json
import logging

import pytest

from streams import logs


def test_one_object_a_line_with_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("INFO", json_lines=True)
    logger = logging.getLogger("streams.test")
    logger.debug("not shown")
    logger.info("first\nsecond %d", 2)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("broke")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = (json.loads(line) for line in err.splitlines())
    assert first["message"] == "first\nsecond 2"
    assert (first["level"], first["logger"]) == ("INFO", "streams.test")
    assert first["time"].endswith("+00:00")
    assert "ValueError: why" in second["error"]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("WARNING", json_lines=False)
    logging.getLogger("streams.test").warning("careful")
    logging.getLogger("streams.test").info("not shown")
    assert capsys.readouterr().err.endswith("WARNING streams.test: careful\n")


def test_what_a_message_quotes_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("INFO", json_lines=False)
    logging.getLogger("a").info("rule %s", "x\n12:00:00 INFO a: all is well\x1b[2J")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("INFO a: rule x")
    assert second == "    12:00:00 INFO a: all is well\ufffd[2J"


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize(
    "number", ["4111111111111111", "4111 1111 1111 1111", "4111 - 1111 - 1111 - 1111"]
)
def test_a_card_number_is_masked(
    capsys: pytest.CaptureFixture[str], json_lines: bool, number: str
) -> None:
    logs.start("INFO", json_lines=json_lines)
    logging.getLogger("a.library").warning("cannot parse %s at offset 12345678901234", number)
    shown = capsys.readouterr().err
    assert number not in shown
    assert "cannot parse [card number] at offset 12345678901234" in shown


def test_a_file_of_a_recording_keeps_its_name() -> None:
    """Zeros pass the check of a card number, and every recording has such a file."""
    name = "recording/transactions/00000-000000000000.parquet"
    told = logs.masked(f"{name}, row group 0: 4111111111111111 00000-000000000000")
    assert told == f"{name}, row group 0: [card number] [card number]"


def test_what_is_said_again_and_again_is_said_seldom() -> None:
    seldom = logs.Seldom()

    def passes(text: str, time_s: float) -> bool:
        record = logging.LogRecord("streams", logging.WARNING, "x.py", 7, text, (time_s,), None)
        record.created = time_s
        return seldom.filter(record)

    assert passes("full after %d s", 1_000) and passes("away after %d s", 1_000)
    told = [second for second in range(1_001, 3_000) if passes("full after %d s", second)]
    assert told == [1_600, 2_200, 2_800]
    # What begins anew is told at once, and so it is after the clock was put back.
    assert passes("away after %d s", 1_100) and passes("full after %d s", 500)

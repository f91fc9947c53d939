"""Every verb: quick to help, with an example, and with nothing heavy imported for it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from streams.cli import build, options
from streams.errors import BrokerError, ConfigError
from streams.offline import report
from streams.offline.rebuild import Result

HEAVY = ("numpy", "torch", "numba", "pydantic", "faust", "aiokafka", "confluent_kafka", "redis")
HELP_MODULES = 200
"""170 at the time of writing, most of them Python's own and typer's."""


def groups(app: Any) -> Iterator[tuple[str, Any]]:
    for name, command in app.commands.items():
        if hasattr(command, "commands"):
            yield name, command


def verbs(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_every_verb_has_help_with_an_example() -> None:
    app = build()
    assert isinstance(app, typer.Typer)
    found = dict(verbs(get_command(app)))
    assert {"services up", "services down", "services status", "topics create"} <= found.keys()
    lacking = [
        name for name, command in found.items() if f"fraudstream {name}" not in (command.help or "")
    ]
    assert lacking == []


def test_an_example_stands_on_one_line_and_is_taken() -> None:
    """As an ordinary terminal prints it, so that it can be copied."""
    for name, command in verbs(get_command(build())):
        shown = command.get_help(command.context_class(command, terminal_width=80))
        (line,) = [each for each in shown.splitlines() if "Example: " in each]
        _, found, arguments = line.partition(f"Example: fraudstream {name}")
        assert found, line
        assert command.help.rstrip().endswith(line.strip()), f"{name}: more on another line"
        command.make_context(name, shlex.split(arguments))


def test_the_help_of_a_group_has_an_example_of_one_of_its_verbs() -> None:
    app = get_command(build())
    found = dict(groups(app))
    assert {"services", "topics", "dlq", "rules", "models"} <= found.keys()
    for name, group in found.items():
        shown = group.get_help(group.context_class(group, terminal_width=80))
        (line,) = [each for each in shown.splitlines() if "Example: " in each]
        verb, *arguments = shlex.split(line.partition(f"Example: fraudstream {name} ")[2])
        group.commands[verb].make_context(verb, arguments)
    assert "Example" not in app.get_help(app.context_class(app)), "the list stays one of lines"


def test_wrong_use_is_told_before_anybody_waits_for_a_server(tmp_path: Path) -> None:
    nowhere = ["--set", "kafka.bootstrap=127.0.0.1:1", "--set", "redis.url=redis://127.0.0.1:1"]
    recording = str(tmp_path / "r")
    for verb, told in (
        (["alerts", "--from", "yesterday"], "cannot read the time 'yesterday'"),
        (["dlq", "list", "--from", "yesterday"], "cannot read the time 'yesterday'"),
        (["record", recording, "--from", "2025-02-01", "--to", "2025-01-01"], "later than --from"),
        (["record", recording, "--from", "9" * 20], "no time '99999999999999999999'"),
        (["record", recording, "--to", "\u00b2"], "no time '\u00b2'"),
        *(
            ([*verb, "--speed", pace], "write it as 60x")
            for verb in (["publish", recording], ["replay", recording, "--to-topic", "again"])
            for pace in ("nan", "inf", "0", "-1x", "fast", "")
        ),
        *(
            (["backtest", recording, flag, moment], "is not from 2000 to 2100")
            for flag in ("--as-of", "--judge-from")
            for moment in ("1735689600", "1735689600000000", "20250131", "1999-12-31")
        ),
        (["backtest", recording, "--review-cost", "inf"], "--review-cost"),
        (["backtest", recording, "--budget", "9" * 20], "--budget"),
        *(
            ([*verb, *flags], "is a file")
            for flags, *verbs in (
                (["--out", __file__], ["replay", recording], ["backtest", recording]),
                ([__file__], ["dataset", recording], ["record"], ["snapshot"], ["models", "add"]),
            )
            for verb in verbs
        ),
        (["replay", recording, "--snapshot", recording], "does not exist"),
        *(
            ([*verb, "--engine", "spark"], "processes or ray")
            for verb in (["replay", __file__], ["backtest", __file__], ["dataset", __file__, "d"])
        ),
        (["models", "add", recording, "--public-key", recording], "no file of 32 bytes"),
        (["replay", "nowhere://user:secret@x"], "at nowhere://...: Protocol not known: nowhere"),
        (["replay", recording, "--to-topic", "scores"], "the service's own"),
        (["replay", recording, "--to-topic", "again-alerts"], "or another's"),
        (["replay", recording, "--to-topic", "x", "--out", "y"], "takes no --labels, --out"),
        (
            ["replay", recording, "--to-topic", "x-rules", "--set", "kafka.topic_prefix=x-"],
            "the service's own",
        ),
    ):
        done = CliRunner().invoke(build(), [*verb, *nowhere])
        wrong = isinstance(done.exception, ConfigError) or done.exit_code == 2
        assert wrong and told in f"{done.exception}{done.stderr}"
    for verb in (["record", recording], ["replay", recording, "--to-topic", "t"]):
        with pytest.raises(BrokerError, match=r"Kafka at 127.0.0.1:1 does not answer"):
            CliRunner().invoke(build(), [*verb, *nowhere], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_every_verb_takes_json() -> None:
    app = build()
    lacking = [
        name
        for name, command in verbs(get_command(app))
        if not any("--json" in option.opts for option in command.params)
    ]
    assert lacking == []


def test_help_imports_little_and_nothing_heavy() -> None:
    """What its time depends on: help is to answer in 0.3 s, which a busy machine cannot show."""
    code = (
        "import sys; from streams.cli import main\n"
        "try: main()\n"
        "finally:\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    print(len(sys.modules), heavy, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert "services" in done.stdout
    modules, _, heavy = done.stderr.partition(" ")
    assert (done.returncode, heavy) == (0, "[]\n")
    assert int(modules) <= HELP_MODULES


def test_numbered_partitions_are_members_of_a_json_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`rebuild --json` tells the offset of each partition."""
    result = Result(
        generation=1,
        partitions=2,
        messages=7,
        moved=True,
        misplaced=0,
        offsets={0: 3, 1: 4},
        swept_keys=0,
    )
    options.say(result.document(), "", True)
    assert json.loads(capsys.readouterr().out)["offsets"] == {"0": 3, "1": 4}


def test_version() -> None:
    code = "from streams.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout[:1].isdigit()) == (0, True)


def test_an_error_shows_no_card_number() -> None:
    code = (
        "import sys; sys.argv[1:] = ['simulate', '--bad']\n"
        "from streams import cli, errors\n"
        "def fails(): raise errors.FormatError('invalid value 4111111111111111 in row 5')\n"
        "cli.build = lambda: fails\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: invalid value [card number] in row 5\n"


def _judged(name: str, model_id: str, **more: Any) -> dict[str, Any]:
    """A model of a backtest, as the report holds it."""
    names = ("average_precision", "roc_auc", "alerts_a_day", "precision", "recall")
    overall = {"events": 9_000, "frauds": 1, **dict.fromkeys(names, 0.5)}
    return {"name": name, "model_id": model_id, "overall": overall, **more}


def test_a_backtest_tells_which_bundle_a_name_stood_for() -> None:
    """After a promotion `default` is another one."""
    even = {"ap_minus_champion": {"difference": 0.0, "low": 0.0, "high": 0.0}}
    _, first, second, *_ = report.told(
        [_judged("default", "fraud@1"), _judged("stub", "stub", **even)]
    )
    assert first.startswith("default (fraud@1): AP 0.500") and second.startswith("stub: AP")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.09, "new ranks better than default"),
        (-0.09, -0.01, "new ranks worse than default"),
        (-0.01, 0.09, "new and default cannot be told apart by how they rank"),
    ],
)
def test_a_backtest_says_which_model_is_better_and_on_how_many_frauds(
    low: float, high: float, verdict: str
) -> None:
    gap = {"difference": (low + high) / 2, "low": low, "high": high}
    rival = _judged("new", "fraud@2", ap_minus_champion=gap)
    lines = report.told([_judged("default", "default@1"), rival])
    assert lines[0] == "9,000 events judged, 1 of them known as fraud"
    middle = f"average precision {gap['difference']:+.4f}"
    assert lines[3:] == [f"{verdict}: {middle}, 95 % interval {low:+.4f} to {high:+.4f}"]

"""Rules put on the topic and taken off it, on a real Kafka, as a worker then has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.cli import build
from streams.clients.publisher import Publisher
from streams.clients.rules import put, read, take_away, text
from streams.errors import ConfigError
from streams.features import NAMES
from streams.live.rule_source import RuleSource
from streams.rulebook import parse_toml
from streams.settings import Settings, load
from streams.topics import create
from tests.messages import rule_file

LISTED = """
[[rule]]
rule_id = "payees"
version = 3
outcome = "approve"
lowers = true
any = [ { field = "merchant_id", op = "in", list = "known" } ]

[[list]]
list_id = "known"
values = ["m-1", "m-2"]
"""


@pytest.fixture
def settings(kafka: str, topic_prefix: str, tmp_path: Path) -> Settings:
    (tmp_path / "file.toml").write_text(rule_file("ours"), "utf-8")
    found = load(
        flags=[
            f"kafka.bootstrap={kafka}",
            f"kafka.topic_prefix={topic_prefix}",
            f"kafka.group={topic_prefix}",
            f"decide.rules={tmp_path / 'file.toml'}",
        ]
    )
    create(found)
    return found


def written(folder: Path, content: str) -> Path:
    path = folder / "put.toml"
    path.write_text(content, "utf-8")
    return path


def send(settings: Settings, key: bytes, value: bytes | None) -> None:
    with Publisher(settings=settings) as out:
        out.send_encoded(out.topic("rules"), [key], [value])


def test_what_is_put_is_what_a_worker_decides_by(settings: Settings, tmp_path: Path) -> None:
    before = read(settings).book.rules()
    # Of a number of more than 64 bits, and of a name that is not ASCII, nothing is lost either.
    content = LISTED + rule_file("gr\u00f6\u00dfer").replace("50000", "9" * 30)
    after = put(settings, written(tmp_path, content))
    assert read(settings).as_json() == after.as_json()
    alone = parse_toml(content, NAMES).rules()
    with RuleSource(settings, parse_toml(rule_file("ours"), NAMES)) as source:
        held = source.rules()
    assert held.digest == after.book.rules().digest != before.digest
    assert [rule for rule in held.rules if rule.rule_id != "ours"] == list(alone.rules)
    assert held.lists == alone.lists
    assert after.as_json()["rules"][0] == {
        "rule_id": "gr\u00f6\u00dfer",
        "version": 1,
        "outcome": "review",
        "description": "",
        "from": "topic",
    }

    assert take_away(settings, ["gr\u00f6\u00dfer", "payees", "list:known"]).book.topic == {}
    with RuleSource(settings, parse_toml(rule_file("ours"), NAMES)) as source:
        assert source.rules().digest == before.digest


def test_a_rule_of_the_file_comes_back(settings: Settings, tmp_path: Path) -> None:
    newer = rule_file("ours").replace("version = 1", "version = 2")
    assert "ours  version 2, topic" in text(put(settings, written(tmp_path, newer)))
    assert "ours  version 1, file" in text(take_away(settings, ["ours"]))


def test_a_version_means_one_rule(settings: Settings, tmp_path: Path) -> None:
    """Other content took its place without a word: what an alert names could be either."""
    first = LISTED + rule_file("large")
    digest = put(settings, written(tmp_path, first)).book.rules().digest
    assert put(settings, written(tmp_path, first)).book.rules().digest == digest
    other = LISTED + rule_file("large").replace("50000", "60000")
    with pytest.raises(ConfigError, match="rule large: version 1 is on the topic with other"):
        put(settings, written(tmp_path, other))
    with pytest.raises(ConfigError, match="rule ours: version 1 is in the file with other content"):
        put(settings, written(tmp_path, rule_file("ours").replace("review", "block")))
    assert read(settings).book.rules().digest == digest
    newer = other.replace("version = 1", "version = 2").replace('["m-1"', '["m-9"')
    assert put(settings, written(tmp_path, newer)).book.rules().digest != digest


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (rule_file("a") + rule_file("b").replace('"amount"', '"amunt"'), "rule b: all: amunt"),
        ("", "no rule and no list"),
        (LISTED.split("[[list]]")[0], "no list 'known'"),
    ],
)
def test_of_a_file_with_a_fault_nothing_is_sent(
    settings: Settings, tmp_path: Path, content: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        put(settings, written(tmp_path, content))
    assert read(settings).book.topic == {}


def test_a_list_that_a_rule_asks_for_stays(settings: Settings, tmp_path: Path) -> None:
    put(settings, written(tmp_path, LISTED))
    with pytest.raises(ConfigError, match="rule payees asks for list:known"):
        take_away(settings, ["list:known"])
    assert set(read(settings).book.topic) == {"payees", "list:known"}
    with pytest.raises(ConfigError, match="nobody is not on the topic"):
        take_away(settings, ["payees", "nobody"])
    assert set(read(settings).book.topic) == {"payees", "list:known"}


def test_messages_that_workers_leave_out_are_shown_and_can_be_taken_away(
    settings: Settings, tmp_path: Path
) -> None:
    flags = [
        flag
        for name in ("bootstrap", "topic_prefix", "group")
        for flag in ("--set", f"kafka.{name}={getattr(settings.kafka, name)}")
    ]
    for key in (b"odd", b"again"):
        send(settings, key, b"{")
    put(settings, written(tmp_path, rule_file("again")))
    done = CliRunner().invoke(build(), ["rules", "list", "--json", *flags])
    (left,) = json.loads(done.stdout)["left_out"]
    assert done.exit_code == 1 and "not JSON" in left["reason"]
    assert "left out: partition " in text(read(settings))
    done = CliRunner().invoke(build(), ["rules", "remove", "odd", "again", *flags])
    assert done.exit_code == 0 and "0 rules in force" in done.stdout
    assert CliRunner().invoke(build(), ["rules", "list", *flags]).exit_code == 0

"""The topic `rules` as an operator sees it: what stands there, put there, taken away.

In: settings, a rules file. Out: what the topic holds, and which of its messages workers leave out.
Does not know how a rule is tried. Whatever is sent was accepted here by the code that workers read
it with, so that a mistake is an error at the desk and no line in a worker's log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streams import assembly, features
from streams.clients.publisher import Publisher
from streams.clients.subscriber import Subscriber
from streams.connect import content_bytes
from streams.errors import ConfigError
from streams.findings import plural
from streams.lists import NamedList
from streams.rulebook import LIST_KEY, RuleBook, key_of, messages_of
from streams.rules import Rule
from streams.settings import Settings

TOPIC = "rules"
Messages = Sequence[tuple[str, bytes | None]]
"""Key and value."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A message that workers leave out, and why."""

    partition: int
    offset: int
    reason: str


@dataclass(slots=True)
class Standing:
    """The rules of the file and of the topic, as a worker with these settings has them.

    book:     both; `book.rules()` are in force
    left_out: messages that are no rule and no list, by key; a later good one of the key is not here
    """

    book: RuleBook
    left_out: dict[bytes, LeftOut] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rules = self.book.rules()
        return {
            "digest": rules.digest,
            "rules": [
                {
                    "rule_id": rule.rule_id,
                    "version": rule.version,
                    "outcome": rule.outcome.value,
                    "description": rule.description,
                    "from": self.place(rule),
                }
                for rule in rules.rules
            ],
            "lists": [
                {"list_id": name, "values": len(each.values), "from": self.place(each)}
                for name, each in sorted(rules.lists.items())
            ],
            "left_out": [
                {"partition": each.partition, "offset": each.offset, "reason": each.reason}
                for each in self.left_out.values()
            ],
        }

    def place(self, item: Rule | NamedList) -> str:
        """Where a rule or list in force comes from."""
        return "topic" if key_of(item) in self.book.topic else "file"


def read(settings: Settings) -> Standing:
    """Read the topic to its end, over the file of `decide.rules`.

    Raises ConfigError for a bad file, BrokerError when the topic cannot be read.
    """
    found = Standing(assembly.rule_book(settings))
    with Subscriber(TOPIC, settings=settings, start="earliest", follow=False) as reader:
        for message in reader.messages():
            key, value = content_bytes(message.key()), content_bytes(message.value())
            try:
                found.book = found.book.with_message(key, value)
            except ConfigError as error:
                place = int(message.partition() or 0), int(message.offset() or 0)
                found.left_out[key or b""] = LeftOut(*place, str(error))
            else:
                found.left_out.pop(key or b"", None)
    return found


def put(settings: Settings, path: Path) -> Standing:
    """Send the rules and lists of a TOML file to the topic; what stands there afterwards.

    Nothing is sent unless all of it is right, also beside what is there already: a rule of the same
    version must be the same rule. Raises ConfigError, BrokerError.
    """
    messages: Messages = list(messages_of(assembly.rules_text(path), features.NAMES).items())
    if not messages:
        raise ConfigError(f"{path} holds no rule and no list", remedy="docs/reasons.md shows one")
    before = read(settings)
    after = _after(before, messages)
    for key, _ in messages:
        _check_version(before.book, after.book.topic[key])
    _send(settings, messages)
    return after


def _check_version(there: RuleBook, item: Rule | NamedList) -> None:
    """Raises ConfigError where a rule is there in this version with other content: alerts name the
    version, and must not mean two rules by it. A list has no version."""
    for place, held in (("on the topic", there.topic), ("in the file", there.file)):
        known = held.get(key_of(item))
        if not (isinstance(item, Rule) and isinstance(known, Rule)):
            continue
        if known.version == item.version and known.canonical() != item.canonical():
            raise ConfigError(
                f"rule {item.rule_id}: version {item.version} is {place} with other content,"
                " and alerts name a rule by its version",
                remedy="give the changed rule a higher version",
            )


def take_away(settings: Settings, names: Sequence[str]) -> Standing:
    """Take rules, or lists by `list:<list_id>`, off the topic; what stands there afterwards. Those
    of the file come back. A message that is left out goes by its key.

    Raises ConfigError when one is not there, or a rule that stays asks for a list; then nothing is
    sent. BrokerError.
    """
    standing = read(settings)
    for name in names:
        if name not in standing.book.topic and name.encode() not in standing.left_out:
            raise ConfigError(
                f"{name} is not on the topic {settings.topic(TOPIC)}",
                remedy="`fraudstream rules list` shows what is; a list is list:<list_id>",
            )
    messages: Messages = [(name, None) for name in names]
    after = _after(standing, messages)
    rules = after.book.rules()
    for rule in rules.rules:
        for condition in (*rule.all, *rule.any):
            asked = f"{LIST_KEY}{condition.list_id}"
            if asked in names and condition.list_id not in rules.lists:
                raise ConfigError(
                    f"rule {rule.rule_id} asks for {asked}",
                    remedy="take that rule away as well",
                )
    _send(settings, messages)
    return after


def _after(standing: Standing, messages: Messages) -> Standing:
    """What stands there after these messages. Raises ConfigError when one is no rule."""
    found = Standing(standing.book, dict(standing.left_out))
    for key, value in messages:
        found.book = found.book.with_message(key.encode(), value)
        found.left_out.pop(key.encode(), None)
    return found


def _send(settings: Settings, messages: Messages) -> None:
    with Publisher(settings=settings) as out:
        full = out.topic(TOPIC)
        out.send_encoded(full, [key.encode() for key, _ in messages], [v for _, v in messages])


def text(standing: Standing) -> str:
    """For a person at a terminal."""
    rules, place = standing.book.rules(), standing.place
    lines = [
        f"{rule.outcome.value:<8} {rule.rule_id}  version {rule.version}, {place(rule)}"
        + (f"  {rule.description}" if rule.description else "")
        for rule in rules.rules
    ]
    lines += [
        f"list     {name}  {len(each.values):,} values, {place(each)}"
        for name, each in sorted(rules.lists.items())
    ]
    lines += [
        f"left out: partition {each.partition} offset {each.offset}: {each.reason}"
        for each in standing.left_out.values()
    ]
    lines.append(f"rules {rules.digest}: {plural(len(rules.rules), 'rule')} in force")
    return "\n".join(lines)

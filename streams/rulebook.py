"""Where rules come from: a TOML file, and messages of the `rules` topic laid over it.

In: TOML text, JSON messages, the names of the window features. Out: a `RuleSet`, or a ConfigError
that names the rule and the field. Does not know how a rule is tried.

File:                                         Topic `rules` (compacted): key = rule_id, or
    [[rule]]                                  `list:<list_id>`; value = the same fields as JSON,
    rule_id = "new-device-night"              or null. A message replaces the file's rule of the
    version = 1                               same id; null brings the file's rule back, so that
    outcome = "review"                        the state is a function of the compacted topic.
    description = "large payment, new device"
    all = [ { field = "amount", op = "ge", value = 50000 },
            { field = "feature.new_device", op = "eq", value = 1 } ]
    any = [ { field = "merchant_id", op = "in", list = "watched" } ]
    [[list]]
    list_id = "watched"
    values = ["m-1", "m-2"]
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from streams.errors import ConfigError
from streams.lists import MAX_LISTS, NamedList, check_texts, parse_list
from streams.rules import (
    EDGE,
    EXT_PREFIX,
    FEATURE_PREFIX,
    TEXT_FIELDS,
    Condition,
    Op,
    Rule,
    RuleSet,
    is_number,
)
from streams.schema import MAX_ID_LENGTH, MAX_RULES, MAX_TEXT_LENGTH, Decision
from streams.validate import CHECKS

MAX_CONDITIONS: Final = 32
MAX_VALUES: Final = 1_000
MAX_NUMBER: Final = 1e300
"""TOML knows whole numbers of any length; what float64 cannot hold is no number of a rule."""
LIST_KEY: Final = "list:"
RULE_FIELDS: Final = frozenset(
    ("rule_id", "version", "outcome", "all", "any", "description", "lowers")
)


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The file's rules and lists, and what the topic lays over them, each by topic key."""

    features: frozenset[str]
    file: Mapping[str, Rule | NamedList] = field(default_factory=dict)
    topic: Mapping[str, Rule | NamedList] = field(default_factory=dict)

    def rules(self) -> RuleSet:
        """The rules in force."""
        items = {**self.file, **self.topic}
        rules = [item for item in items.values() if isinstance(item, Rule)]
        lists = {item.list_id: item for item in items.values() if isinstance(item, NamedList)}
        if len(rules) > MAX_RULES or len(lists) > MAX_LISTS:
            raise ConfigError(f"more than {MAX_RULES} rules or {MAX_LISTS} lists")
        return RuleSet(tuple(sorted(rules, key=lambda rule: rule.rule_id)), lists)

    def with_message(self, key: bytes | None, value: bytes | None) -> RuleBook:
        """The book after one message of the `rules` topic.

        Raises ConfigError when the message is no rule and no list; the book stays as it was.
        """
        try:
            name = (key or b"").decode()
            document = None if value is None else _parsed(value, f"rule {name}")
        except (ValueError, RecursionError):
            raise ConfigError("rule message is not JSON under a text key") from None
        topic = dict(self.topic)
        if document is None:
            topic.pop(name, None)
        else:
            if not isinstance(document, dict):
                raise ConfigError(f"rule {name}: the message is not a JSON object")
            item = (
                parse_list(document)
                if name.startswith(LIST_KEY)
                else parse_rule(document, self.features)
            )
            if key_of(item) != name:
                raise ConfigError(f"rule {name}: the message's key is not {key_of(item)!r}")
            topic[name] = item
        changed = replace(self, topic=topic)
        changed.rules()
        return changed


def _parsed(value: bytes, at: str) -> Any:
    """The JSON of a message. Raises ConfigError where an object names a member twice: readers
    differ on which one counts; ValueError, RecursionError for what is no JSON."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"{at}: names the member {twice!r} twice")

    document = orjson.loads(value)
    json.loads(value, object_pairs_hook=once)
    return document


def key_of(item: Rule | NamedList) -> str:
    """The topic key of a rule or list."""
    return item.rule_id if isinstance(item, Rule) else LIST_KEY + item.list_id


def parse_toml(text: str, features: Collection[str]) -> RuleBook:
    """A rule book from the text of a TOML file. Raises ConfigError that names rule and field."""
    return _book(_document(text), features)


def _document(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise ConfigError(f"rules file is not TOML: {error}") from None


def _book(document: Mapping[str, Any], features: Collection[str]) -> RuleBook:
    unknown = sorted(set(document) - {"rule", "list"})
    if unknown:
        raise ConfigError(f"rules file: unknown table {unknown[0]!r}; use [[rule]] and [[list]]")
    known = frozenset(features)
    items: dict[str, Rule | NamedList] = {}
    parsed: list[Rule | NamedList] = [parse_list(each) for each in _tables(document, "list")]
    parsed += [parse_rule(each, known) for each in _tables(document, "rule")]
    for item in parsed:
        if key_of(item) in items:
            raise ConfigError(f"rule {key_of(item)}: appears twice")
        items[key_of(item)] = item
    for item in parsed:
        for condition in (*item.all, *item.any) if isinstance(item, Rule) else ():
            if condition.list_id is not None and LIST_KEY + condition.list_id not in items:
                raise ConfigError(
                    f"rule {key_of(item)}: {condition.field}: no list {condition.list_id!r}"
                )
    book = RuleBook(known, items)
    book.rules()
    return book


def messages_of(text: str, features: Collection[str]) -> dict[str, bytes]:
    """The messages of the topic `rules` that say what a TOML file says, lists first: value by key.

    Raises ConfigError as `parse_toml` does.
    """
    document = _document(text)
    _book(document, features)
    named = [(f"{LIST_KEY}{each['list_id']}", each) for each in _tables(document, "list")]
    named += [(each["rule_id"], each) for each in _tables(document, "rule")]
    # A whole number may have more digits than orjson writes.
    return {key: json.dumps(each).encode() for key, each in named}


def _tables(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ConfigError(f"rules file: write [[{name}]]")
    return tables


def parse_rule(document: Mapping[str, Any], features: Collection[str]) -> Rule:
    """A rule from its parsed TOML or JSON. Raises ConfigError that names the rule and the field."""
    rule_id = document.get("rule_id")
    if not isinstance(rule_id, str) or not 0 < len(rule_id) <= MAX_ID_LENGTH:
        raise ConfigError(f"rule: rule_id must be a string of 1 to {MAX_ID_LENGTH} characters")
    at = f"rule {rule_id}"
    check_texts(document, at)
    if rule_id.startswith(LIST_KEY):
        raise ConfigError(f"{at}: rule_id must not start with {LIST_KEY!r}")
    unknown = sorted(set(document) - RULE_FIELDS)
    if unknown:
        raise ConfigError(f"{at}: unknown field {unknown[0]!r}")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not 0 < version < 2**31:
        raise ConfigError(f"{at}: version must be a whole number from 1")
    if document.get("outcome") not in tuple(Decision):
        raise ConfigError(f"{at}: outcome must be one of {', '.join(Decision)}")
    outcome = Decision(document["outcome"])
    description = document.get("description", "")
    if not isinstance(description, str) or len(description) > MAX_TEXT_LENGTH:
        raise ConfigError(f"{at}: description must be at most {MAX_TEXT_LENGTH} characters")
    lowers = document.get("lowers", False)
    if not isinstance(lowers, bool) or (lowers and outcome is not Decision.APPROVE):
        raise ConfigError(f"{at}: lowers is true or false, and only for outcome approve")
    conditions = {part: _conditions(document, part, at, features) for part in ("all", "any")}
    if not (conditions["all"] or conditions["any"]):
        raise ConfigError(f"{at}: all, any: a rule needs a condition")
    return Rule(
        rule_id, version, outcome, conditions["all"], conditions["any"], description, lowers
    )


def _conditions(
    document: Mapping[str, Any], part: str, at: str, features: Collection[str]
) -> tuple[Condition, ...]:
    given = document.get(part, [])
    if not isinstance(given, list) or len(given) > MAX_CONDITIONS:
        raise ConfigError(f"{at}: {part} must be a list of at most {MAX_CONDITIONS} conditions")
    return tuple(_condition(each, f"{at}: {part}", features) for each in given)


def _condition(document: Any, at: str, features: Collection[str]) -> Condition:
    if not isinstance(document, dict) or not isinstance(document.get("field"), str):
        raise ConfigError(f"{at}: a condition is a table with field, op and value")
    name = document["field"]
    at = f"{at}: {name}"
    unknown = sorted(set(document) - {"field", "op", "value", "list"})
    if unknown:
        raise ConfigError(f"{at}: unknown part {unknown[0]!r}")
    number = is_number(name)
    if name.startswith(FEATURE_PREFIX) and name.removeprefix(FEATURE_PREFIX) not in features:
        raise ConfigError(f"{at}: no such window feature")
    if not (number or name in TEXT_FIELDS or name.startswith(EXT_PREFIX)):
        raise ConfigError(f"{at}: no such field of a transaction")
    if document.get("op") not in tuple(Op):
        raise ConfigError(f"{at}: op must be one of {', '.join(Op)}")
    op = Op(document["op"])
    listed = document.get("list")
    if listed is not None:
        if not isinstance(listed, str) or number or op not in (Op.IN, Op.NOT_IN):
            raise ConfigError(f"{at}: list goes with in or not_in on a text field")
        if "value" in document:
            raise ConfigError(f"{at}: give value or list, not both")
        return Condition(name, op, None, listed)
    value = _value(document, op, number, at)
    if name in TEXT_FIELDS and op is not Op.EXISTS:
        _check_can_be(name, value, at)
    return Condition(name, op, value)


def _check_can_be(name: str, value: str | frozenset[str], at: str) -> None:
    """Raises ConfigError for a value that no accepted transaction has in this field: the rule would
    never match, or always."""
    for each in sorted(value) if isinstance(value, frozenset) else (value,):
        wrong = CHECKS[name](each)
        if wrong is not None:
            # The error is logged: an id may be an account's.
            shown = "such a value" if name.endswith(("_id", "_hash")) else f"the value {each!r}"
            raise ConfigError(f"{at}: no transaction has {shown}: {wrong[1]}")


def _value(document: Mapping[str, Any], op: Op, number: bool, at: str) -> Any:
    if op is Op.EXISTS:
        value = document.get("value", True)
        if not isinstance(value, bool):
            raise ConfigError(f"{at}: exists takes true or false")
        return value
    if "value" not in document:
        raise ConfigError(f"{at}: value is missing")
    value = document["value"]
    if op in (Op.IN, Op.NOT_IN):
        if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
            raise ConfigError(f"{at}: {op} takes a list of 1 to {MAX_VALUES} values")
        return frozenset(_typed(each, number, at) for each in value)
    if not number and op not in (Op.EQ, Op.NE):
        raise ConfigError(f"{at}: {op} needs a number, this field is text")
    return _typed(value, number, at)


def _typed(value: Any, number: bool, at: str) -> Any:
    if number:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not -MAX_NUMBER <= value <= MAX_NUMBER
        ):
            raise ConfigError(f"{at}: value must be a number")
        # No column holds such a whole number, and nothing here takes one: as a float it compares.
        return value if -EDGE <= value < EDGE else float(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH:
        raise ConfigError(f"{at}: value must be text of at most {MAX_TEXT_LENGTH} characters")
    return value

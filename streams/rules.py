"""Rules that people write, tried on a whole batch at once.

In: typed rules, and one batch as columns: transaction fields, window features by name, the score.
Out: for each rule the rows it matches. Does not know where rules come from (`rulebook.py`), nor
what an outcome does to a payment (`decide.py`).

A condition is `field op value`. Fields are those of the transaction (`amount`, `merchant_id`,
`ext.shop`), `feature.<name>`, and `score`. A rule matches where every condition of `all` holds and,
if there is any, at least one of `any`. A condition on a value that is not there (a field not given,
a feature that is -1, no score, a list that does not exist) is false whatever its operator; only
`exists` asks for presence.

Text conditions go through an index of the batch, value -> rows, built once per field: a rule then
costs a look-up, not a pass over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from streams.lists import NamedList
from streams.schema import Decision

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Op(StrEnum):
    """What a condition asks."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    IN = "in"
    NOT_IN = "not_in"
    EXISTS = "exists"


ORDERINGS: Final[Mapping[Op, Callable[[Any, Any], Any]]] = {
    Op.EQ: np.equal,
    Op.NE: np.not_equal,
    Op.LT: np.less,
    Op.LE: np.less_equal,
    Op.GT: np.greater,
    Op.GE: np.greater_equal,
}

NUMBER_FIELDS: Final = (
    "amount",
    "event_time",
    "observed_time",
    "latitude",
    "longitude",
)
TEXT_FIELDS: Final = (
    "transaction_id",
    "account_id",
    "currency",
    "event_type",
    "direction",
    "channel",
    "entry_mode",
    "card_id",
    "merchant_id",
    "terminal_id",
    "mcc",
    "counterparty_account_id",
    "merchant_country",
    "billing_country",
    "ip_country",
    "device_id",
    "ip_hash",
    "email_hash",
    "auth_response",
    "original_transaction_id",
    "tenant_id",
)
SCORE_FIELD: Final = "score"
FEATURE_PREFIX: Final = "feature."
EXT_PREFIX: Final = "ext."

EDGE: Final = 2**63
"""Numbers of an integer column lie from -EDGE to below EDGE."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`field op value`; `list_id` stands in for the value of `in` and `not_in`."""

    field: str
    op: Op
    value: Any = None
    list_id: str | None = None

    def canonical(self) -> list[Any]:
        """For the digest; a set of values in one order."""
        value = sorted(self.value, key=repr) if isinstance(self.value, frozenset) else self.value
        return [self.field, self.op, value, self.list_id]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `lowers`: an approve rule that may lower the score's own decision."""

    rule_id: str
    version: int
    outcome: Decision
    all: tuple[Condition, ...]
    any: tuple[Condition, ...]
    description: str = ""
    lowers: bool = False

    def canonical(self) -> dict[str, Any]:
        """For the digest: everything that can change what the rule does or says."""
        return {
            "rule_id": self.rule_id,
            "version": self.version,
            "outcome": self.outcome,
            "all": [each.canonical() for each in self.all],
            "any": [each.canonical() for each in self.any],
            "description": self.description,
            "lowers": self.lowers,
        }


@dataclass(frozen=True, slots=True)
class RuleInput:
    """One batch as rules see it. `names` are the features' names in column order."""

    docs: Sequence[Mapping[str, Any]]
    amount: NDArray[np.int64]
    event_time: NDArray[np.int64]
    features: NDArray[np.float32]
    names: Mapping[str, int]
    scores: NDArray[np.float64]
    numbers: dict[str, tuple[NDArray[Any], Mask]] = field(default_factory=dict)
    texts: dict[str, dict[str | None, list[int]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.docs)

    def number(self, name: str) -> tuple[NDArray[Any], Mask]:
        """The column of a number and where it is given."""
        found = self.numbers.get(name)
        if found is None:
            found = self.numbers[name] = self._number(name)
        return found

    def _number(self, name: str) -> tuple[NDArray[Any], Mask]:
        if name == SCORE_FIELD:
            return self.scores, ~np.isnan(self.scores)
        if name.startswith(FEATURE_PREFIX):
            column = self.features[:, self.names[name.removeprefix(FEATURE_PREFIX)]]
            return column, column != -1.0
        if name == "amount":
            return self.amount, np.ones(len(self), np.bool_)
        if name == "event_time":
            return self.event_time, np.ones(len(self), np.bool_)
        given = [doc.get(name) for doc in self.docs]
        mask = np.array([value is not None for value in given], np.bool_)
        return np.array([0.0 if value is None else value for value in given], np.float64), mask

    def index(self, name: str) -> dict[str | None, list[int]]:
        """Rows by value of a text field; None holds the rows that do not give it."""
        found = self.texts.get(name)
        if found is None:
            found = self.texts[name] = {}
            ext = name.removeprefix(EXT_PREFIX) if name.startswith(EXT_PREFIX) else None
            for row, doc in enumerate(self.docs):
                value = doc.get(name) if ext is None else (doc.get("ext") or {}).get(ext)
                found.setdefault(value, []).append(row)
        return found


def is_number(name: str) -> bool:
    """Whether a field holds numbers; the others hold text."""
    return name in NUMBER_FIELDS or name == SCORE_FIELD or name.startswith(FEATURE_PREFIX)


@dataclass(frozen=True, slots=True)
class Match:
    """A rule and the rows it matched, ascending."""

    rule: Rule
    rows: Rows


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules by rule_id and the lists they name; `digest` is the version that scores carry."""

    rules: tuple[Rule, ...] = ()
    lists: Mapping[str, NamedList] = field(default_factory=dict)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        ids = [rule.rule_id for rule in self.rules]
        assert ids == sorted(set(ids)), "rules are unique and in order of their ids"
        content = [
            [rule.canonical() for rule in self.rules],
            [self.lists[name].canonical() for name in sorted(self.lists)],
        ]
        object.__setattr__(self, "digest", xxhash.xxh3_64_hexdigest(orjson.dumps(content)))

    def match(self, batch: RuleInput) -> list[Match]:
        """The rules that match some row, in order of their ids."""
        found = []
        for rule in self.rules:
            mask = self._mask(rule, batch)
            if mask is not None and mask.any():
                found.append(Match(rule, np.flatnonzero(mask)))
        return found

    def _mask(self, rule: Rule, batch: RuleInput) -> Mask | None:
        mask: Mask | None = None
        for condition in rule.all:
            held = self._holds(condition, batch)
            mask = held if mask is None else mask & held
            if not mask.any():
                return None
        if rule.any:
            either = np.zeros(len(batch), np.bool_)
            for condition in rule.any:
                either |= self._holds(condition, batch)
            mask = either if mask is None else mask & either
        return mask

    def _holds(self, condition: Condition, batch: RuleInput) -> Mask:
        if is_number(condition.field):
            return _number_holds(condition, batch)
        wanted: frozenset[str]
        if condition.list_id is not None:
            named = self.lists.get(condition.list_id)
            if named is None:
                return np.zeros(len(batch), np.bool_)
            wanted = named.values
        elif isinstance(condition.value, frozenset):
            wanted = condition.value
        else:
            wanted = frozenset((condition.value,))
        return _text_holds(condition, wanted, batch)


def _number_holds(condition: Condition, batch: RuleInput) -> Mask:
    column, given = batch.number(condition.field)
    if condition.op is Op.EXISTS:
        return given if condition.value else ~given
    if condition.op in (Op.IN, Op.NOT_IN):
        wanted = sorted(condition.value)
        if column.dtype.kind == "i":
            # As an integer 0.1 would be 0, and found; and 2^63 is no number of the column at all.
            wanted = [
                value for value in wanted if float(value).is_integer() and -EDGE <= value < EDGE
            ]
        with np.errstate(over="ignore"):
            values = np.array(wanted, column.dtype)
        return given & np.isin(column, values, invert=condition.op is Op.NOT_IN)
    # A feature is compared in its own type, so that `eq 0.1` means the float32 nearest to 0.1.
    value = condition.value
    if column.dtype == np.float32:
        with np.errstate(over="ignore"):
            value = np.float32(value)
    compared: Mask = ORDERINGS[condition.op](column, value)
    return given & compared


def _text_holds(condition: Condition, wanted: frozenset[str], batch: RuleInput) -> Mask:
    index = batch.index(condition.field)
    mask = np.zeros(len(batch), np.bool_)
    if condition.op is Op.EXISTS:
        mask[index.get(None, [])] = True
        return ~mask if condition.value else mask
    # Walk the shorter of the two: the values asked for, or those that the batch has.
    for value in wanted if len(wanted) <= len(index) else wanted & index.keys():
        rows = index.get(value)
        if rows is not None:
            mask[rows] = True
    if condition.op in (Op.EQ, Op.IN):
        return mask
    mask[index.get(None, [])] = True
    return ~mask

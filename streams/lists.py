"""Named lists of tokens (merchants, devices, accounts) that rules refer to: allow and deny lists.

In: `{"list_id": ..., "values": [...]}` from TOML or from the `rules` topic.
Out: a frozen set with a name. Does not know which rule uses it, nor for what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from streams.errors import ConfigError
from streams.privacy import has_pan, strings_in
from streams.schema import BAD_CHARACTERS, MAX_ID_LENGTH, MAX_TEXT_LENGTH

MAX_LISTS: Final = 100
MAX_LIST_VALUES: Final = 10_000


@dataclass(frozen=True, slots=True)
class NamedList:
    """One list; `in` asks whether a token is on it."""

    list_id: str
    values: frozenset[str]

    def canonical(self) -> dict[str, Any]:
        """The same list always gives the same object; the rules' digest is made of it."""
        return {"list_id": self.list_id, "values": sorted(self.values)}


def check_texts(document: Mapping[str, Any], at: str) -> None:
    """Raises ConfigError for a text that no transaction may hold: it could match none, and an alert
    would carry it on."""
    for text in strings_in(document):
        if BAD_CHARACTERS.search(text):
            raise ConfigError(f"{at}: a text holds a control or bidirectional character")
        if has_pan(text):
            raise ConfigError(f"{at}: a text holds digits that pass the check of a card number")


def parse_list(document: Mapping[str, Any]) -> NamedList:
    """A list from its parsed TOML or JSON. Raises ConfigError that names list and field."""
    list_id = document.get("list_id")
    if not isinstance(list_id, str) or not 0 < len(list_id) <= MAX_ID_LENGTH:
        raise ConfigError(f"list: list_id must be a string of 1 to {MAX_ID_LENGTH} characters")
    check_texts(document, f"list {list_id}")
    unknown = sorted(set(document) - {"list_id", "values"})
    if unknown:
        raise ConfigError(f"list {list_id}: unknown field {unknown[0]!r}")
    values = document.get("values")
    if not isinstance(values, list) or len(values) > MAX_LIST_VALUES:
        raise ConfigError(f"list {list_id}: values must be a list of at most {MAX_LIST_VALUES}")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_LENGTH:
            raise ConfigError(
                f"list {list_id}: values must be strings of 1 to {MAX_TEXT_LENGTH} characters"
            )
    return NamedList(list_id, frozenset(values))

"""Telling the publishers' rule from where messages lie."""

from __future__ import annotations

import pytest

from streams.errors import StoreUnready
from streams.offline.routing import RULES, Found, Route, find, java

KEYS = [f"acct-{number}".encode() for number in range(300)]


def placed(rule: str, partitions: int, keys: list[bytes] = KEYS) -> list[Found]:
    return [(key, RULES[rule](key, partitions)) for key in keys]


def odd(partitions: int) -> list[Found]:
    """A rule of somebody's own."""
    return [(key, int(key.split(b"-")[1]) % partitions) for key in KEYS]


def test_known_places_of_java_clients() -> None:
    """Values of org.apache.kafka.common.utils.Utils.murmur2, from its own unit test."""
    known = {b"21": -973932308, b"foobar": -790332482, b"abc": 479470107}
    for key, hashed in known.items():
        assert java(key, 1_000_003) == (hashed & 0x7FFF_FFFF) % 1_000_003


@pytest.mark.parametrize("rule", RULES)
def test_a_count_that_never_changed_leaves_accounts_in_place(rule: str) -> None:
    route = find(placed(rule, 6), placed(rule, 6), 6, 6)
    assert route == Route(6, None)
    assert route(b"acct-1", 5) == 5


@pytest.mark.parametrize("rule", RULES)
def test_a_raised_count_moves_accounts_by_the_rule(rule: str) -> None:
    old, new = placed(rule, 6), placed(rule, 10)
    for before in (6, 10):  # 10: Redis was lost, too
        assert find(old, old[:200] + new, 10, before) == Route(10, rule)
    stale = new[:95] + old[95:100]
    assert find(old, old + stale, 10, 6) == Route(10, rule), "some publishers lag behind"
    assert find(old, old, 10, 6) == Route(10, rule), "no message yet since the change"
    assert find(old, old, 10, 6)(b"acct-1", 0) == RULES[rule](b"acct-1", 10)


def test_an_unknown_rule_is_fine_until_the_count_changes() -> None:
    assert find(odd(6), odd(6), 6, 6) == Route(6, None)
    with pytest.raises(StoreUnready, match="murmur2"):
        find(odd(6), odd(6), 10, 6)


def test_a_burst_into_one_partition_is_no_sign_of_a_change() -> None:
    """All of the last messages lie where a topic of one partition would have them."""
    burst = [(key, place) for key, place in odd(6) if place == 0] * 3
    assert find(odd(6), odd(6) + burst, 6, 6) == Route(6, None)


@pytest.mark.parametrize("before", [2, 3])
def test_a_key_in_two_places_is_not_enough(before: int) -> None:
    """Somebody's own rule, a key that came to both partitions, and a burst at the end."""
    keys = [f"zqacct-2-{number}".encode() for number in range(24)]
    places = [(key, number % 2) for number, key in enumerate(keys)]
    strays = [(b"somebody else", 0), (b"somebody else", 1)]
    burst = [found for found in places if found[1] == 0] * 9
    if before == 2:
        assert find(places + strays, places + strays + burst, 2, before) == Route(2, None)
    else:
        with pytest.raises(StoreUnready, match="murmur2"):
            find(places + strays, places + strays + burst, 2, before)


def test_an_empty_topic() -> None:
    assert find([], [], 6, 6) == Route(6, None)

"""The checks at start: is this Redis fit, is this state ours, can we go on from where it stands?

In: a Redis client, or what was found in Redis and Kafka. Out: nothing, an offset to start from, or
StoreUnready whose message says what to do.
Does not know how to repair anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

import redis
from redis import exceptions

from streams.errors import LogShort, StoreUnready
from streams.store import KEY_FORMAT, Claim, Identity, scripts

MIN_MAJOR: Final = 7
REBUILD: Final = "Run `fraudstream rebuild` to make the state again from the topic"
OWN: Final = (
    "Is it another service's? Then give this one a redis.namespace and a kafka.group of its own."
    f" Else: {REBUILD.lower()}"
)
NOT_DURABLE: Final = (
    "To go without (after a crash of Redis the workers do again what it lost), set"
    " redis.require_durable = false"
)


def check_server(client: redis.Redis, *, require_durable: bool) -> None:
    """Version, role, eviction, durability. Raises StoreUnready, StoreLost."""
    with scripts.named_failures(-1):
        info = cast(Mapping[str, Any], client.info("everything"))
    version = str(info.get("redis_version", "0"))
    if major(version) < MIN_MAJOR:
        raise StoreUnready(f"Redis is {version}", remedy=f"Use Redis >= {MIN_MAJOR} or Valkey")
    if info.get("role") not in (None, "master"):
        raise StoreUnready("this Redis is a replica", remedy=scripts.PRIMARY)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise StoreUnready(
            f"Redis has maxmemory-policy {policy}: it would forget accounts in silence",
            remedy=_set("maxmemory-policy noeviction"),
        )
    if require_durable:
        _check_durable(client, info)


def _set(line: str) -> str:
    return f"Run `redis-cli CONFIG SET {line}`, and write `{line}` in redis.conf"


def _check_durable(client: redis.Redis, info: Mapping[str, Any]) -> None:
    if not int(info.get("aof_enabled", 0)):
        raise StoreUnready(
            "Redis has appendonly no: its state ends with its process",
            remedy=f"{_set('appendonly yes')}. {NOT_DURABLE}",
        )
    try:
        found = cast(Mapping[str, str], client.config_get("appendfsync"))
    except exceptions.ResponseError:  # forbidden by ACL, or renamed away
        found = {}
    except exceptions.RedisError as error:
        raise scripts.named(error, -1) from None
    value = found.get("appendfsync")
    if value is None:
        raise StoreUnready(
            "this user may not read appendfsync (CONFIG GET is refused)",
            remedy="Allow `+config|get` in the user's ACL; or, where the service that runs Redis"
            " promises durable writes, set redis.require_durable = false",
        )
    if value != "always":
        raise StoreUnready(
            f"Redis has appendfsync {value}: it acknowledges writes that a crash loses",
            remedy=f"{_set('appendfsync always')}. {NOT_DURABLE}",
        )


def refuse_claim(partition: int, identity: Identity, code: str, found: str) -> NoReturn:
    """Raise what `acquire` found against the claim."""
    if code == "TOPIC":
        raise StoreUnready(
            f"the state of partition {partition} belongs to topic id {found}, but the topic's id is"
            f" {identity.topic_id}: the topic was deleted and made again, or is another"
            " one",
            remedy=OWN,
        )
    if code == "PARTITIONS":
        raise StoreUnready(
            f"the state was made with {found} partitions, but the topic has {identity.partitions}:"
            " accounts may have moved to other partitions",
            remedy=OWN,
        )
    if code == "FORMAT":
        raise StoreUnready(
            f"the keys have format {found}, this version writes {KEY_FORMAT}",
            remedy=f"Use the version that wrote them. Or: {REBUILD.lower()}",
        )
    if code == "BROKEN":
        raise StoreUnready(
            f"a write to partition {partition} failed half way ({found})", remedy=REBUILD
        )
    if code == "FORBIDDEN":
        raise StoreUnready(f"Redis refuses this user the command {found}", remedy=scripts.RIGHTS)
    assert code == "RETIRED", code
    raise StoreUnready(f"the keys of partition {partition} are retired", remedy=REBUILD)


def start_offset(
    claim: Claim, low: int, high: int, committed: int | None, name: str = "transactions"
) -> int:
    """Where to go on: the offset in the store, or the log's start when nothing was ever done.

    `low` and `high` are the log's first offset and its end; `committed` is what the consumer group
    has committed to Kafka, which counts only as a witness. Raises StoreUnready, LogShort.
    """
    assert 0 <= low <= high
    where = f"{name}[{claim.partition}]"
    if claim.offset is None:
        if committed is not None and committed > low:
            raise StoreUnready(
                f"Redis holds nothing of {where}, but the group has committed offset {committed}:"
                " Redis came back empty, or is another one",
                remedy=f"Check redis.url and redis.namespace. {REBUILD}",
            )
        return low
    if claim.offset < low:
        raise StoreUnready(
            f"{where} begins at offset {low}, but the state stops at {claim.offset}: the topic's"
            f" retention removed {low - claim.offset} offsets before they were read",
            remedy=REBUILD,
        )
    if claim.offset > high:
        raise LogShort(
            f"{where} ends at offset {high}, but the state stands at {claim.offset}: the topic lost"
            " its end (an unclean leader election) or is another one",
            remedy=f"Check kafka.bootstrap. {REBUILD}",
        )
    return claim.offset


def major(version: str) -> int:
    """The first number of a version."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0

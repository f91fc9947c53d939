"""Which accounts were erased: the markers that a replay must respect.

In: settings of the live store, the recording's own tombstones. Out: account digest -> offset.
Does not know how an account is erased (`store/`). Reading takes no claim, so live workers go on.

A recording of the log has its offsets, so what an account did after its erasure stays in. A plain
file has offsets of its own that say nothing about before and after: all of an erased account in it
is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import redis

from streams.connect import redis_client
from streams.errors import StoreLost
from streams.offline.source import Source
from streams.privacy import account_digest
from streams.settings import Settings
from streams.store import generations, keys

ALL: Final = 2**62
"""As the offset of an erasure: every message came before it."""


def forgotten(settings: Settings, source: Source) -> tuple[dict[bytes, int], str | None]:
    """Markers of the live store and of the recording; and a remark when the store is out of reach.

    A recording may be older than an erasure, so the live store's word counts too.
    """
    found = tombstones(source)
    logged = source.of_a_log()
    client = redis_client(settings)
    try:
        partitions = source.shards() if logged else None
        live = markers(client, settings.redis.namespace, partitions)
    except (redis.RedisError, StoreLost):
        return found, "the live store cannot be reached: accounts erased since are not left out"
    finally:
        client.close()
    for digest, cut in live.items():
        found[digest] = max(cut, found.get(digest, -1)) if logged else ALL
    return found, None


def cut_of(forgotten: Mapping[bytes, int], account: str) -> int:
    """The offset before which an account is erased, by such markers; -1 for one that is not."""
    return forgotten.get(account_digest(account), -1)


def markers(client: redis.Redis, namespace: str, partitions: list[int] | None) -> dict[bytes, int]:
    """The live store's markers of these partitions, of all for None. Raises redis.RedisError."""
    now = generations.read(client, namespace)
    found: dict[bytes, int] = {}
    for partition in range(now.partitions or 0) if partitions is None else partitions:
        answer = client.hgetall(keys.of(namespace, now.current, partition).gone)
        assert isinstance(answer, dict)
        for digest, cut in answer.items():
            assert isinstance(digest, bytes)
            found[digest] = max(found.get(digest, -1), int(cut))
    return found


def tombstones(source: Source) -> dict[bytes, int]:
    """The erasures that the recording itself asks for: null values with a key."""
    found: dict[bytes, int] = {}
    for key, offset in source.tombstones():
        digest = account_digest(key.decode("utf-8", "replace"))
        found[digest] = max(offset, found.get(digest, -1))
    return found

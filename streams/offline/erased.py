"""Which accounts were erased: the markers that a replay must respect.

In: settings of the live store, the recording's own tombstones. Out: account digest -> offset.
Does not know how an account is erased (`store/`). Reading takes no claim, so live workers go on.
"""

from __future__ import annotations

import redis

from streams.connect import redis_client
from streams.errors import StoreLost
from streams.offline.source import Source
from streams.privacy import account_digest
from streams.settings import Settings
from streams.store import generations, keys

CONNECT_S = 1.0


def forgotten(settings: Settings, source: Source) -> tuple[dict[bytes, int], str | None]:
    """Markers of the live store and of the recording; and a remark when the store is out of reach.

    A recording may be older than an erasure, so the live store's word counts too.
    """
    found = tombstones(source)
    client = redis_client(settings)
    try:
        live = markers(client, settings.redis.namespace, source.shards())
    except (redis.RedisError, StoreLost):
        return found, "the live store cannot be reached: accounts erased since are not left out"
    finally:
        client.close()
    for digest, cut in live.items():
        found[digest] = max(cut, found.get(digest, -1))
    return found, None


def markers(client: redis.Redis, namespace: str, partitions: list[int]) -> dict[bytes, int]:
    """The live store's markers of these partitions. Raises redis.RedisError."""
    generation = generations.read(client, namespace).current
    found: dict[bytes, int] = {}
    for partition in partitions:
        answer = client.hgetall(keys.of(namespace, generation, partition).gone)
        assert isinstance(answer, dict)
        for digest, cut in answer.items():
            assert isinstance(digest, bytes)
            found[digest] = max(found.get(digest, -1), int(cut))
    return found


def tombstones(source: Source) -> dict[bytes, int]:
    """The erasures that the recording itself asks for: null values with a key."""
    found: dict[bytes, int] = {}
    for key, offset in source.tombstones():
        found[account_digest(key.decode("utf-8", "replace"))] = offset
    return found

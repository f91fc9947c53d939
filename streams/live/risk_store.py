"""Risk snapshots in Redis: who may build them, what is built, and the bytes.

In: a Redis client, snapshots' bytes. Out: the same bytes again, and how far the building is.
Does not know Kafka, nor what a snapshot says.

    fs:{risk}:lock           the builder's token, with a time to live: its heartbeat
    fs:{risk}:state          about (topics and pace), token (last one given), front, restart,
                             steps (a number that moves while the builder gets on)
    fs:{risk}:days           period -> digest, of the periods that are not empty
    fs:{risk}:s:<digest>     the snapshot, packed

Every write names the token, and counts only while the lock holds it: a builder that was thought
dead and woke up changes nothing. A period's digest and a digest's bytes are set once.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import redis

from streams.errors import FraudstreamError, StoreError
from streams.store import scripts

LOCK_MS: Final = 6_000
KEEP_DAYS: Final = 400
"""Days behind the front whose snapshots are kept for replay and verify."""
HEAD_BYTES: Final = 20
"""Of a snapshot's bytes; words of eight bytes follow."""

_LENGTH: Final = struct.Struct("<I")

TAKE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local token = redis.call('HINCRBY', KEYS[2], 'token', 1)
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
"""
RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'steps', ARGV[3])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
BEGIN: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[2], 'front', 'restart')
redis.call('HSET', KEYS[2], 'about', ARGV[2])
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""
PUBLISH: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] ~= '' and redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3]) == 1 then
  redis.call('SET', KEYS[4], ARGV[4], 'NX')
end
redis.call('HSET', KEYS[2], 'front', ARGV[2])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], 'restart', ARGV[5]) end
for i = 6, #ARGV do redis.call('HDEL', KEYS[3], ARGV[i]) end
for i = 5, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""

T = TypeVar("T")


class NotLeader(FraudstreamError):
    """The lock went to somebody else, or was lost: build no more."""


@dataclass(frozen=True, slots=True)
class State:
    """How far the building is. restart: per topic and partition the offset to read from; sign:
    changes while the builder gets on."""

    about: str | None
    front: int | None
    restart: Mapping[str, Mapping[str, int]] | None
    sign: tuple[str | None, ...]


def packed(content: bytes) -> bytes:
    """A snapshot's bytes, smaller: the words' bytes side by side, then deflate."""
    words = np.frombuffer(content[HEAD_BYTES:], np.uint8).reshape(-1, 8)
    squeezed = zlib.compress(np.ascontiguousarray(words.T).tobytes(), 1)
    return _LENGTH.pack(len(words)) + content[:HEAD_BYTES] + squeezed


def unpacked(stored: bytes) -> bytes:
    """The snapshot's bytes. Raises StoreError when they are damaged."""
    try:
        (count,) = _LENGTH.unpack_from(stored)
        head = stored[_LENGTH.size : _LENGTH.size + HEAD_BYTES]
        plain = zlib.decompress(stored[_LENGTH.size + HEAD_BYTES :])
        return head + np.frombuffer(plain, np.uint8).reshape(8, count).T.tobytes()
    except (struct.error, zlib.error, ValueError) as error:
        raise StoreError(f"a stored risk snapshot is unreadable: {error}") from None


def _named(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer


def _text(answer: bytes | str | None) -> str | None:
    return None if answer is None else _named(answer)


class RiskStore:
    """All calls block. Raises StoreLost when Redis does not answer."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self._client = client
        self._prefix = f"{namespace}:{{risk}}:"
        self._lock = f"{self._prefix}lock"
        self._state = f"{self._prefix}state"
        self._days = f"{self._prefix}days"
        self._scripts: dict[str, Any] = {}

    def _blob(self, digest: str) -> str:
        return f"{self._prefix}s:{digest}"

    def _asked(self, call: Callable[[], T]) -> T:
        with scripts.named_failures(-1):
            return call()

    def _run(self, source: str, keys: list[str], arguments: list[Any]) -> int:
        script = self._scripts.get(source)
        if script is None:
            script = self._scripts[source] = self._client.register_script(source)
        return int(self._asked(lambda: script(keys=keys, args=arguments)))

    def _must(self, source: str, keys: list[str], arguments: list[Any]) -> None:
        if not self._run(source, keys, arguments):
            raise NotLeader("another worker builds the risk snapshots")

    def take(self) -> int | None:
        """Become the builder: a token, or None while another one is alive."""
        return self._run(TAKE, [self._lock, self._state], [LOCK_MS]) or None

    def renew(self, token: int, steps: int = 0) -> None:
        """Stay the builder, having made so many steps. Raises NotLeader."""
        self._must(RENEW, [self._lock, self._state], [token, LOCK_MS, steps])

    def release(self, token: int) -> None:
        """Let another one build at once."""
        self._run(RELEASE, [self._lock], [token])

    def alive(self) -> bool:
        """Does anybody build?"""
        return bool(self._asked(lambda: self._client.exists(self._lock)))

    def state(self) -> State:
        """How far the building is, and of which topics."""
        names = ["about", "front", "restart", "token", "steps"]
        found = self._asked(lambda: self._client.hmget(self._state, names))
        about, front, restart, token, steps = found
        return State(
            _text(about),
            None if front is None else int(front),
            None if restart is None else orjson.loads(restart),
            (_text(front), _text(token), _text(steps)),
        )

    def named(self) -> dict[int, str]:
        """The digest of each period that has a snapshot."""
        found = self._asked(lambda: self._client.hgetall(self._days))
        return {int(period): _named(digest) for period, digest in found.items()}

    def digests(self, periods: list[int]) -> list[str | None]:
        """The same for some periods only."""
        if not periods:
            return []
        found = self._asked(
            lambda: self._client.hmget(self._days, [str(period) for period in periods])
        )
        return [_text(digest) for digest in found]

    def snapshot(self, digest: str) -> bytes | None:
        """A snapshot's bytes, None when they are no longer kept."""
        stored = self._asked(lambda: self._client.get(self._blob(digest)))
        if stored is None:
            return None
        assert isinstance(stored, bytes), "a client that decodes answers was given"
        return unpacked(stored)

    def begin(self, token: int, about: str) -> None:
        """Start over for other topics or another pace; what was built is dropped."""
        old = sorted(set(self.named().values()))
        keys = [self._lock, self._state, self._days, *map(self._blob, old)]
        self._must(BEGIN, keys, [token, about])

    def publish(
        self,
        token: int,
        period: int,
        digest: str | None,
        content: bytes | None,
        restart: Mapping[str, Mapping[int, int]] | None = None,
        dropped: Mapping[int, str] | None = None,
    ) -> None:
        """Decide a period: its snapshot, None when it is empty. The front moves to it.

        `restart` goes with it where it is given; `dropped` are old periods to forget.
        """
        old = dropped or {}
        keys = [self._lock, self._state, self._days, self._blob(digest or "none")]
        keys += [self._blob(each) for each in old.values()]
        checkpoint = b""
        if restart is not None:
            checkpoint = orjson.dumps(restart, option=orjson.OPT_NON_STR_KEYS)
        stored = b"" if content is None else packed(content)
        self._must(PUBLISH, keys, [token, period, digest or "", stored, checkpoint, *old])

"""The store in Redis: one script a step, one MGET a load, one round trip for several partitions.

In: claims and commits. Out: what the scripts beside this file did, in the words of the protocol.
Does not know what records and entries hold, nor when a call that got no answer is to be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple
from typing import NoReturn, cast

import redis

from streams.errors import (
    Conflict,
    Fenced,
    Overtaken,
    PartitionError,
    StoreError,
    StoreFull,
    StoreUnready,
)
from streams.privacy import account_digest
from streams.store import (
    KEY_FORMAT,
    MAX_OUTBOX_ENTRIES,
    Ask,
    Claim,
    Commit,
    Identity,
    Scrub,
    checks,
    generations,
    keys,
    scripts,
)
from streams.store.scripts import Argument, Script, text

REBUILD = checks.REBUILD
ACQUIRE_ATTEMPTS = 5
SCRUB_ATTEMPTS = 1_000
STATE = ("token", "owner", "offset", "erasures", "retired", "broken")
"""Fields of the partition hash that say whether a claim still holds."""


class RedisStore:
    """A Store on one Redis. `generation` None follows the pointer key, as workers do."""

    acquire_script = Script.named("acquire")
    commit_script = Script.named("commit")
    trim_script = Script.named("trim")
    forget_script = Script.named("forget")
    scrub_script = Script.named("scrub")

    def __init__(
        self,
        client: redis.Redis,
        namespace: str = "fs",
        *,
        generation: int | None = None,
        require_durable: bool = True,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._generation = generation
        self._require_durable = require_durable

    def check(self) -> None:
        checks.check_server(self._client, require_durable=self._require_durable)

    def acquire(self, partition: int, identity: Identity) -> Claim:
        owner = os.urandom(8).hex()
        for _ in range(ACQUIRE_ATTEMPTS):
            generation, names = self._generation or 0, []
            if self._generation is None:
                now = generations.read(self._client, self._namespace, identity.partitions)
                if now.partitions != identity.partitions:
                    checks.refuse_claim(partition, identity, "PARTITIONS", str(now.partitions))
                generation = now.current
                if now.before is not None:
                    names.append(keys.of(self._namespace, now.before, partition).part)
            names.insert(0, keys.of(self._namespace, generation, partition).part)
            code, *state = scripts.run(
                self._client,
                self.acquire_script,
                names,
                (owner, KEY_FORMAT, *astuple(identity)),
                partition=partition,
            )
            if code == b"OK":
                token, offset, erasures, model_id = (text(each) for each in state)
                return Claim(
                    partition=partition,
                    token=int(token),
                    owner=owner,
                    generation=generation,
                    offset=int(offset) if offset else None,
                    erasures=int(erasures),
                    model_id=model_id,
                )
            if code != b"RETIRED" or self._generation is not None:
                checks.refuse_claim(partition, identity, text(code), text(state[0]))
        raise StoreUnready(
            f"the keys of partition {partition} are retired and no newer ones are in use",
            remedy=REBUILD,
        )

    def load(self, claim: Claim, accounts: Sequence[str], at: int | None) -> list[bytes | None]:
        (found,) = self.load_all([(claim, accounts, at)])
        if isinstance(found, PartitionError):
            raise found
        return found

    def load_all(self, asked: Sequence[Ask]) -> list[list[bytes | None] | PartitionError]:
        # One round trip, each state after its records: if the partition is still where the caller
        # saw it after the records were read, they are of that moment. (MULTI would do, too, but a
        # server at maxmemory refuses to queue even reads.)
        calls: list[tuple[int, tuple[str, ...]]] = []
        for claim, accounts, _ in asked:
            own = self._keys(claim)
            names = [own.record + name for name in accounts]
            # Of no account MGET is refused; of its state alone the partition is asked all the same.
            calls += [(claim.partition, ("MGET", *names))] if names else []
            calls.append((claim.partition, ("HMGET", own.part, *STATE)))
        calls.append((-1, ("HGET", keys.pointer(self._namespace), "current")))
        *replies, current = scripts.ask_all(self._client, calls)
        left = iter(replies)
        found: list[list[bytes | None] | PartitionError] = []
        for claim, accounts, at in asked:
            records = next(left) if accounts else []
            try:
                _compare(claim, at, next(left))
                if self._generation is None and int(current or 0) != claim.generation:
                    # The switch to another one did not come to mark ours as retired.
                    _refuse(claim, at, "RETIRED", "")
                found.append(records)
            except PartitionError as error:
                found.append(error)
        return found

    def commit(self, claim: Claim, commit: Commit) -> None:
        _, names, arguments = self._call(claim, commit)
        answer = scripts.run(
            self._client, self.commit_script, names, arguments, partition=claim.partition
        )
        if answer[0] != b"OK":
            _refuse(claim, commit.expected, text(answer[0]), text(answer[1]))

    def commit_all(self, steps: Sequence[tuple[Claim, Commit]]) -> list[PartitionError | None]:
        answers = scripts.run_all(
            self._client, self.commit_script, [self._call(*step) for step in steps]
        )
        results: list[PartitionError | None] = []
        for (claim, commit), answer in zip(steps, answers, strict=True):
            try:
                if isinstance(answer, StoreError):
                    raise answer
                if answer[0] != b"OK":
                    _refuse(claim, commit.expected, text(answer[0]), text(answer[1]))
                results.append(None)
            except PartitionError as error:
                results.append(error)
        return results

    def _call(self, claim: Claim, commit: Commit) -> tuple[int, Sequence[str], Sequence[Argument]]:
        """The commit script's keys and arguments."""
        own = self._keys(claim)
        start, writes = own.record, commit.writes
        names = [own.part, own.outbox, own.gone]
        names += [start + account for account in writes.accounts]
        names += [start + account for account, _ in commit.erased]
        arguments: list[Argument] = [
            claim.token,
            claim.owner,
            "" if commit.expected is None else commit.expected,
            commit.next,
            claim.erasures,
            MAX_OUTBOX_ENTRIES,
            commit.entry or b"",
            writes.counts,
            writes.spans,
            writes.blob,
        ]
        for account, cut_offset in commit.erased:
            arguments += (account_digest(account), cut_offset)
        return claim.partition, names, arguments

    def pending(self, claim: Claim) -> list[tuple[int, bytes]]:
        return self._outbox(self._keys(claim).outbox, claim.partition)

    def _outbox(self, name: str, partition: int) -> list[tuple[int, bytes]]:
        with scripts.named_failures(partition):
            found = cast(dict[bytes, bytes], self._client.hgetall(name))
        return sorted((int(seq), entry) for seq, entry in found.items())

    def trim(self, claim: Claim, seqs: Sequence[int]) -> None:
        own = self._keys(claim)
        arguments: list[Argument] = [claim.token, claim.owner, *seqs]
        code, detail = scripts.run(
            self._client,
            self.trim_script,
            [own.part, own.outbox],
            arguments,
            partition=claim.partition,
        )
        if code != b"OK":
            _refuse(claim, None, text(code), text(detail))

    def forget(self, partition: int, account: str, cut_offset: int, scrub: Scrub) -> None:
        now = generations.read(self._client, self._namespace)
        # In this order: a rebuild looks for markers in the generation in use last of all.
        for generation in (now.current, now.building):
            if generation is None:
                continue
            own = keys.of(self._namespace, generation, partition)
            # The count first: no commit that knew the account can come after it.
            scripts.run(
                self._client,
                self.forget_script,
                [own.part, own.gone, own.record + account],
                [account_digest(account), cut_offset],
                partition=partition,
            )
            self._scrub(own.outbox, partition, scrub)

    def _scrub(self, outbox: str, partition: int, scrub: Scrub) -> None:
        """Rewrite each entry in its place; one that changed meanwhile is read again."""
        for seq, _ in self._outbox(outbox, partition):
            for _ in range(SCRUB_ATTEMPTS):
                with scripts.named_failures(partition):
                    entry = cast(bytes | None, self._client.hget(outbox, str(seq)))
                kept = None if entry is None else scrub(entry)
                if entry is None or kept == entry:
                    break
                arguments: list[Argument] = [seq, entry, kept or b""]
                if scripts.run(self._client, self.scrub_script, [outbox], arguments)[0] == b"OK":
                    break

    def forgotten(self, claim: Claim) -> dict[bytes, int]:
        with scripts.named_failures(claim.partition):
            found = cast(dict[bytes, bytes], self._client.hgetall(self._keys(claim).gone))
        return {digest: int(cut) for digest, cut in found.items()}

    def close(self) -> None:
        self._client.close()

    def _keys(self, claim: Claim) -> keys.Keys:
        return keys.of(self._namespace, claim.generation, claim.partition)


def _compare(claim: Claim, at: int | None, state: Sequence[bytes | None]) -> None:
    """The checks of commit.lua, for a load. Raises Fenced, Conflict, StoreUnready."""
    known = {name: text(value) for name, value in zip(STATE, state, strict=True) if value}
    token = int(known.get("token", 0))
    if "retired" in known:
        _refuse(claim, at, "RETIRED", "")
    if "broken" in known:
        _refuse(claim, at, "BROKEN", known["broken"])
    if token < claim.token:
        _refuse(claim, at, "LOST", "")
    if (token, known.get("owner")) != (claim.token, claim.owner):
        _refuse(claim, at, "FENCED", str(token))
    if known.get("offset") != (None if at is None else str(at)):
        _refuse(claim, at, "OFFSET", known.get("offset", ""))
    if int(known.get("erasures", 0)) != claim.erasures:
        _refuse(claim, at, "ERASED", known.get("erasures", ""))


def _refuse(claim: Claim, expected: int | None, code: str, detail: str) -> NoReturn:
    """Raise what the script's answer means."""
    partition = claim.partition
    if code == "FENCED":
        raise Fenced(f"owner {detail} took over from {claim.token}", partition=partition)
    if code == "RETIRED":
        raise Overtaken(f"key generation {claim.generation} is retired", partition=partition)
    if code == "OFFSET":
        raise Conflict(f"stored offset is {detail or None}", partition=partition, offset=expected)
    if code == "ERASED":
        raise Overtaken("an account was erased", partition=partition, offset=expected)
    if code == "LOST":
        raise Conflict("Redis no longer knows this claim", partition=partition, offset=expected)
    if code == "FULL":
        raise StoreFull(f"the outbox holds {detail} entries", partition=partition)
    assert code == "BROKEN", code
    raise StoreUnready(
        f"partition {partition} is broken: a write failed half way ({detail})", remedy=REBUILD
    )

"""F11: the decoder alone, fed with bytes that a fuzzer makes. A process of its own.

In: seconds, a seed, a directory for what was found. Out: how many messages were tried; the message
that led to an error, in the directory. Two drivers, whichever this Python has:

    atheris   libFuzzer, led by the coverage of the decoder's Python code (`pip install atheris`)
    plain     the same message shapes, changed byte by byte from a seed, led by nothing

What is held, for every message: it is a row, a reject or a tombstone, and the same one whether it
comes alone or among others (the quick tests of whole columns must not decide otherwise than the
slow look at one message); a reject's detail has nothing of the message in it.

    python -m tests.faults.fuzz_decoder --seconds 60 --seed 1 --out build/fuzz
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

COMPILED: Final = ("streams.scan", "streams.cards")
"""Imported before the fuzzer watches: Numba cannot compile what it has put its marks in."""
MAX_BYTES: Final = 4_096
CHECKED: Final = 64
"""Messages of this driver's between two looks at the clock."""


def has_atheris() -> bool:
    """Can the fuzzer be imported here?"""
    return importlib.util.find_spec("atheris") is not None


def outcome(columns: Any, row: int) -> tuple[Any, ...]:
    """What became of one message of a batch, without its place."""
    for at, found in enumerate(columns.row.tolist()):
        if found == row:
            words = columns.words[at].tobytes()
            return "row", columns.account_id[at], columns.transaction_id[at], words
    for rejected in columns.rejects:
        if rejected.row == row:
            return "reject", rejected.reason, rejected.detail
    (account,) = [account for at, account in columns.tombstones if at == row]
    return "tombstone", account


def checker() -> Callable[[bytes], None]:
    """Looks at one message. Imports here: a fuzzer must be there before what it watches."""
    from streams.decode import decode
    from tests.messages import MAX_FUTURE_MS, batch_of, message

    right, other = message(), message(account_id="acct-2", transaction_id="tx-2")

    def check(raw: bytes) -> None:
        # The first byte chooses the key; most fit.
        value, kind = raw[1:], raw[0] if raw else 0
        key = (b"acct-1", b"acct-1", b"acct-1", None, b"", b"\xff")[kind % 6]
        alone = decode(batch_of([value], [key]), MAX_FUTURE_MS)
        among = decode(batch_of([right, value, other], [b"acct-1", key, b"acct-2"]), MAX_FUTURE_MS)
        found = outcome(alone, 0)
        assert found == outcome(among, 1), "the verdict depends on the neighbours"
        assert outcome(among, 0)[0] == outcome(among, 2)[0] == "row", "a neighbour was refused"
        if found[0] == "reject":
            text = value.decode("utf-8", "replace")
            words = [word for word in found[2].split() if any(c.isdigit() for c in word)]
            assert not any(len(word) > 12 and word in text for word in words), found[2]

    return check


def seeds_of(chance: random.Random, count: int) -> list[bytes]:
    """Messages to start from: valid ones, and ones made to harm that are not too long."""
    from tests.faults.hostile import hostile
    from tests.messages import FULL, SMALL

    made = [hostile(chance.choice((FULL, SMALL)), chance) or b"" for _ in range(count)]
    return [bytes([chance.randrange(6)]) + each for each in made if len(each) < MAX_BYTES]


def plain(seconds: float, seed: int, out: Path) -> int:
    """The driver without atheris: bytes flipped, doubled, cut out and put together."""
    chance, check = random.Random(f"fuzz {seed}"), checker()
    pool, tried = seeds_of(chance, 200), 0
    until = time.monotonic() + seconds
    while tried % CHECKED or time.monotonic() < until:
        raw = bytearray(chance.choice(pool))
        for _ in range(chance.randint(1, 6)):
            at, size = chance.randrange(len(raw) + 1), chance.randint(1, 8)
            kind = chance.randrange(4)
            if kind == 0 and at < len(raw):
                raw[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                raw[at:at] = raw[at : at + size]
            elif kind == 2:
                del raw[at : at + size]
            else:
                donor = chance.choice(pool)
                cut = chance.randrange(len(donor) + 1)
                raw[at : at + size] = donor[cut : cut + 4 * size]
        try:
            check(bytes(raw[:MAX_BYTES]))
        except Exception:
            (out / f"crash-{seed}").write_bytes(bytes(raw[:MAX_BYTES]))
            raise
        tried += 1
    return tried


def led(seconds: float, seed: int, out: Path) -> None:
    """The driver with atheris; ends the process. libFuzzer itself writes what it found to `out`."""
    import atheris

    for name in COMPILED:
        importlib.import_module(name)
    with atheris.instrument_imports(include=["streams"]):
        importlib.import_module("streams.decode")
    check = checker()
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(seeds_of(random.Random(f"fuzz {seed}"), 200)):
        (corpus / f"seed-{seed}-{number}").write_bytes(each)
    limits = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_BYTES}"]
    arguments = [f"-seed={seed % 2**31 + 1}", f"-artifact_prefix={out}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *arguments, *limits, str(corpus)], check)
    atheris.Fuzz()


def fuzz(seconds: float, seed: int, out: Path) -> tuple[str, int]:
    """Run one of the two in a process of its own; which one, and how many messages it tried.

    Raises AssertionError with the error and the file that holds the message.
    """
    out.mkdir(parents=True, exist_ok=True)
    given = ["--seconds", str(seconds), "--seed", str(seed), "--out", str(out)]
    child = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_decoder", *given],
        capture_output=True,
        text=True,
        timeout=300 + 3 * seconds,
    )
    said = child.stdout + child.stderr
    if child.returncode:
        files = sorted(str(each) for each in out.glob("crash-*"))
        raise AssertionError(f"the message is in {files}:\n{said[-3_000:]}")
    if has_atheris():
        tried = next(
            line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line
        )
        return "atheris", int(tried)
    return "plain", int(json.loads(child.stdout)["tried"])


def main() -> None:
    """The process."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--again", type=Path, help="look at this one message")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.again is not None:
        checker()(given.again.read_bytes())
    elif has_atheris():
        led(given.seconds, given.seed, given.out)
    else:
        tried = plain(given.seconds, given.seed, given.out)
        sys.stdout.write(json.dumps({"tried": tried}))


if __name__ == "__main__":
    main()

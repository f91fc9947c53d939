"""The packed form of changed bytes."""

from __future__ import annotations

import random

from streams.writes import NO_WRITES, WHOLE, Piece, Writes


def test_writes_unpack_to_what_was_packed() -> None:
    chance = random.Random(4)
    given_pieces: list[tuple[str, list[Piece]]] = [
        (
            f"n{number}",
            [
                (chance.randrange(4_000), chance.randbytes(chance.randrange(1, 50)))
                for _ in range(chance.randrange(5))
            ],
        )
        for number in range(50)
    ]
    given_pieces.append(("whole", [(WHOLE, b"all")]))
    assert list(Writes.of(given_pieces)) == given_pieces


def test_no_writes() -> None:
    assert list(NO_WRITES) == []
    assert Writes.of([]) == Writes([], b"", b"", b"")

"""A bad line: a TCP relay that harms each connection in one of several ways, drawn from a seed.

In: a server's port and a seed. Out: a port for clients. Does not know the protocol.

    delay    each chunk waits up to 0.2 s
    slice    chunks go on in pieces of one to forty bytes
    trickle  a few bytes, a pause, a few bytes
    cut      the connection ends after some chunks, in the middle of one
    reset    the same, with RST
    deaf     the server's answers go nowhere from some moment on: it acted, and nobody hears
    mute     the client's requests go nowhere from some moment on (half-open)
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Final

WAYS: Final = ("delay", "slice", "trickle", "cut", "reset", "deaf", "mute")
LIFE: Final = (1, 60)
"""Chunks before a connection with an end is harmed."""
RESET: Final = struct.pack("ii", 1, 0)


class Line:
    """Forwards connections to 127.0.0.1:`port`. `faults` counts connections harmed."""

    def __init__(self, port: int, seed: int) -> None:
        self.faults = 0
        self._target = port
        self._chance = random.Random(f"line {seed}")
        self._ways: Sequence[str] = ()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def misbehave(self, ways: Sequence[str] = WAYS) -> None:
        """Harm every connection from now on in one of these ways; those open are cut, so that new
        ones come."""
        self._ways = ways
        self._cut()

    def behave(self) -> None:
        """Forward as a line should."""
        self._ways = ()
        self._cut()

    def lead_to(self, port: int) -> None:
        """From now on connections go to another server."""
        self._target = port
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            some, self._open = self._open, []
        for each in some:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open += [client, server]
                    way = self._chance.choice(self._ways) if self._ways else ""
                    harm = Harm(way, random.Random(self._chance.random()))
                    self.faults += bool(way)
                for source, sink, up in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=_forward, args=(source, sink, harm, up), daemon=True
                    ).start()

    def close(self) -> None:
        """Cut everything and listen no more."""
        self._listener.close()
        self._cut()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Harm:
    """What happens to one connection."""

    def __init__(self, way: str, chance: random.Random) -> None:
        self.way = way
        self._chance = chance
        self._left = chance.randint(*LIFE)
        self._lock = threading.Lock()

    def send(self, chunk: bytes, sink: socket.socket, up: bool) -> bool:
        """Pass a chunk on, or not; False ends the connection."""
        with self._lock:
            self._left -= 1
            over = self._left <= 0
            pieces, pause = self._pieces(chunk)
        if over and self.way == ("mute" if up else "deaf"):
            return True
        if over and self.way in ("cut", "reset"):
            sink.sendall(chunk[: len(chunk) // 2])
            if self.way == "reset":
                sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return False
        for piece in pieces:
            if pause:
                time.sleep(pause)
            sink.sendall(piece)
        return True

    def _pieces(self, chunk: bytes) -> tuple[list[bytes], float]:
        if self.way == "delay":
            return [chunk], self._chance.uniform(0, 0.2)
        if self.way not in ("slice", "trickle") or len(chunk) > 4_096:
            return [chunk], 0.0
        size = self._chance.randint(1, 40)
        pieces = [chunk[at : at + size] for at in range(0, len(chunk), size)]
        return pieces, 0.002 if self.way == "trickle" else 0.0


def _forward(source: socket.socket, sink: socket.socket, harm: Harm, up: bool) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65_536):
            if not harm.send(chunk, sink, up):
                break
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        sink.close()

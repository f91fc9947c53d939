"""A TCP proxy that loses things on purpose, between a client and a real server.

In: the server's port, and before each fault what to lose. Out: a port for clients.
Does not know the protocol: it takes every chunk read from a socket as one message, which holds for
a client that waits for each answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Proxy:
    """Forwards connections to 127.0.0.1:`port` until told otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._lose_replies = 0
        self._lose_requests = 0
        self._hold_requests = 0
        self._held: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def lose_replies(self, number: int = 1) -> None:
        """The next answers of the server go nowhere, and their connections are cut."""
        with self._lock:
            self._lose_replies = number

    def lose_requests(self, number: int = 1) -> None:
        """The next requests go nowhere, and their connections are cut."""
        with self._lock:
            self._lose_requests = number

    def hold_requests(self, number: int = 1) -> None:
        """The next requests wait here until `release`; their clients hear nothing."""
        with self._lock:
            self._hold_requests = number

    def release(self) -> list[bytes]:
        """Send what was held, late, over a connection of its own; the server's answers."""
        with self._lock:
            held, self._held = self._held, []
        answers = []
        for request in held:
            with socket.create_connection(("127.0.0.1", self._target)) as late:
                late.sendall(request)
                answers.append(late.recv(65_536))
        return answers

    def _start(self, run: object, *args: object) -> None:
        assert callable(run)
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._sockets += [client, server]
                self._start(self._forward, client, server, True)
                self._start(self._forward, server, client, False)

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 20):
                if self._is_lost(chunk, from_client):
                    if from_client and self._held and self._held[-1] is chunk:
                        continue
                    break
                sink.sendall(chunk)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _is_lost(self, chunk: bytes, from_client: bool) -> bool:
        with self._lock:
            if from_client and self._hold_requests:
                self._hold_requests -= 1
                self._held.append(chunk)
                return True
            if from_client and self._lose_requests:
                self._lose_requests -= 1
                return True
            if not from_client and self._lose_replies:
                self._lose_replies -= 1
                return True
            return False

    def close(self) -> None:
        """Cut everything."""
        self._listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for each in [*sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)
        for each in sockets:
            each.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

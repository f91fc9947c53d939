"""A disk that can be made full, and have room again, while servers use it.

In: an empty directory. Out: the same directory as a file system of its own (tmpfs), whose size can
change. Where mounting is not permitted, files that cannot grow instead (RLIMIT_FSIZE of the process
that writes them): no write is taken then either, with another error number.
Does not know who writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOM: Final = 1 << 30
"""Bytes a tmpfs may hold; memory is taken only by what is written."""
REMOUNT: Final = 32
DETACH: Final = 2


class Disk:
    """`path` is where to write; `mounted` tells which of the two kinds it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.mounted = self._mount(0, ROOM) == 0

    def _mount(self, flags: int, size: int) -> int:
        options = f"size={size}".encode()
        place = os.fsencode(self.path)
        return int(self._libc.mount(b"tmpfs", place, b"tmpfs", flags, options))

    def allocate(self, size: int, *names: str) -> None:
        """Give the sparse files whose names match their first `size` bytes on the disk.

        Who writes through memory into a page that a full disk cannot give is killed or, in a JVM,
        told by an error that is no I/O error.
        """
        for name in names:
            for each in self.path.rglob(name):
                with each.open("rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, min(size, each.stat().st_size))

    def fill(self, pid: int, spare: int = 0) -> None:
        """Room for `spare` bytes more, from now on, of what process `pid` writes."""
        if not self.mounted:
            files = [each for each in self.path.rglob("*") if each.suffix in (".aof", ".log")]
            limit = max((each.stat().st_size for each in files), default=0)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit + spare, resource.RLIM_INFINITY))
            return
        found = os.statvfs(self.path)
        self._size((found.f_blocks - found.f_bfree) * found.f_frsize + spare)

    def free(self, pid: int) -> None:
        """Room again. `pid` may have ended."""
        if self.mounted:
            self._size(ROOM)
            return
        with contextlib.suppress(ProcessLookupError):
            infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, infinite)

    def _size(self, size: int) -> None:
        # What is written between the look at the size and this makes a size too small for it.
        for more in range(0, 1 << 24, 1 << 16):
            if self._mount(REMOUNT, size + more) == 0:
                return
        raise OSError(ctypes.get_errno(), "the file system cannot change its size")

    def close(self) -> None:
        """Let the file system go."""
        if self.mounted:
            self._libc.umount2(os.fsencode(self.path), DETACH)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    """A disk for as long as the block lasts."""
    disk = Disk(path)
    try:
        yield disk
    finally:
        disk.close()

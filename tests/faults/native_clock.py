"""A time of day for all of a process, native code too: libfaketime, and two calls that it lacks.

In: a directory. Out: the environment for a process of its own, and a file that says the time.
Does not know what runs under it. Debian's package is `faketime` (0.9.10 and later work); a C
compiler builds the missing calls (`native_clock.c`). Only the time of day lies: the monotonic clock
does not jump on any machine, and is left alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIBRARY: Final = "faketime/libfaketimeMT.so.1"
ROOTS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
SOURCE: Final = Path(__file__).with_suffix(".c")


def library() -> Path | None:
    """Where libfaketime is; None where it is not."""
    names = (LIBRARY, f"*/{LIBRARY}")
    found = (each for root in ROOTS for name in names for each in Path(root).glob(name))
    return next(found, None)


def missing() -> str:
    """What this machine lacks; "" for nothing."""
    parts = {"libfaketime (Debian: apt-get install faketime)": library(), "cc": shutil.which("cc")}
    return " and ".join(name for name, found in parts.items() if found is None)


def environment(directory: Path, file: Path) -> dict[str, str]:
    """What a process must find in its environment to believe `file`. Raises RuntimeError."""
    lie, compiler = library(), shutil.which("cc")
    if lie is None or compiler is None:
        raise RuntimeError(f"this needs {missing()}")
    shim = directory / "native_clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(SOURCE), "-pthread"]
    subprocess.run(command, check=True, capture_output=True)
    return {
        "LD_PRELOAD": f"{shim}:{lie}",
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",  # else a jump is seen up to ten seconds later
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",  # times of files keep: Numba takes its compiled kernels by them
        "TZ": "UTC",  # the file's frozen time has no zone
    }


def asked(environment: Mapping[str, str]) -> int:
    """What a native program takes for the time now, in seconds."""
    done = subprocess.run(
        ["date", "+%s"], env={**os.environ, **environment}, check=True, capture_output=True
    )
    return int(done.stdout)


def tell(file: Path, lie: str) -> None:
    """From now on the file says this: a day ahead, a day behind, frozen, or the truth."""
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    beside = file.with_suffix(".new")
    beside.write_text({"ahead": "+1d", "behind": "-1d", "frozen": now}.get(lie, "+0d") + "\n")
    beside.rename(file)

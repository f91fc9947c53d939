"""The signals that ask a process to end: Ctrl-C, a stop from outside, a closed terminal.

In: nothing. Out: their numbers. Does not know what ends, nor how.
"""

from __future__ import annotations

import signal


def endings() -> list[signal.Signals]:
    """SIGINT, SIGTERM, and SIGHUP unless the process was started to outlive its terminal."""
    found = [signal.SIGINT, signal.SIGTERM]
    # `nohup` ignores it, and that is to hold.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found

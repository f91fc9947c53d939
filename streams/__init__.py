"""fraudstream: transactions in, alerts with reasons out.

The two clients are here for programs: `from streams import Publisher, Subscriber`. They load when
they are first asked for, so that `import streams` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.clients.publisher import Publisher
    from streams.clients.subscriber import Subscriber

__all__ = ["Publisher", "Subscriber"]


def __getattr__(name: str) -> Any:
    if name == "Publisher":
        from streams.clients.publisher import Publisher

        return Publisher
    if name == "Subscriber":
        from streams.clients.subscriber import Subscriber

        return Subscriber
    raise AttributeError(f"module 'streams' has no attribute {name!r}")

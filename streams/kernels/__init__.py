"""What the Numba passes of `decode.py`, `windows.py` and `alerts.py` are made of: functions of
arrays, nothing else.

message  plain messages cleared and read         fields    the schema and the values, as arrays
lexical  white space, strings, numbers           xxh3      the hash of a text

record   layout, checksum, 128-bit sums         cells     the arrays, as the kernels see them
ring     the last 64 events in time order       panes     what is kept of events behind the ring
update   an event enters its account's record   walk      the windows, from newest to oldest
traits   features that are not windows          pack      records to and from bytes
lanes    sixteen events at once                 numbering  numbers for 64-bit keys

texts    scores as JSON                          batches  texts as Kafka records

Numba keeps machine code on disk and looks only at the file of the function that was called, so a
change in one file here would leave stale code in another. Entry functions that call across files
therefore hold `SOURCES` as a closure variable, which is part of Numba's key.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

SOURCES: Final = hashlib.sha256(
    b"".join(
        file.read_bytes()
        for folder, names in (
            ("streams.kernels", None),
            (
                "streams",
                ("cards.py", "codes.py", "columns.py", "features.py", "schema.py", "windows.py"),
            ),
            ("model", ("inputs.py",)),
        )
        for file in sorted(resources.files(folder).iterdir(), key=lambda each: each.name)
        if (file.name in names if names else file.name.endswith(".py"))
    )
).hexdigest()
"""Changes with any line that the kernels are compiled from."""

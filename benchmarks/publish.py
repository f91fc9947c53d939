"""What publishing a file costs: CPU time a message for reading, encoding and sending.

    python benchmarks/publish.py [--events N] [--json]

Reads a simulated Parquet file (21 columns, some 420 bytes of JSON a message) and publishes it to a
real broker of its own. CPU time is the publisher's process, its threads included (compression and
the network run in one of librdkafka's); wall time has the broker beside it on the same machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.ground import servers, settings
from streams.clients.encode import messages
from streams.clients.files import batches
from streams.clients.publish import Pace, chunks, publish
from streams.clients.publisher import Publisher
from streams.clients.writer import write_table
from streams.dev.simulate import Plan, simulate


def encoding(path: Path) -> tuple[int, float]:
    """Messages, and CPU seconds to read the file and encode them, without sending."""
    count, began = 0, time.process_time()
    for batch in batches(path, path.name, "parquet"):
        count += len(messages(batch)[1])
    return count, time.process_time() - began


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--events", type=int, default=500_000)
    flags.add_argument("--json", action="store_true")
    given = flags.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place, servers() as ground:
        path = Path(place) / "s.parquet"
        began = time.process_time()
        stream = simulate(Plan(events=given.events, accounts=20_000))
        write_table(path, stream.transactions)
        rows.append(("simulate and write the file", time.process_time() - began, None))
        encoding(path)
        _, spent = encoding(path)
        rows.append(("read and encode", spent, None))
        for compression in ("none", "lz4", "zstd"):
            with Publisher(
                settings=settings(ground.flags(f"p{compression}")), compression=compression
            ) as out:
                wall, began = time.perf_counter(), time.process_time()
                publish(out, chunks(path, None), Pace())
                out.flush()
                spent, wall = time.process_time() - began, time.perf_counter() - wall
            rows.append((f"publish, {compression}", spent, wall))
    table = [
        {
            "what": what,
            "cpu_us": round(spent / given.events * 1e6, 2),
            "per_second_of_cpu": round(given.events / spent),
            "per_second_of_wall": None if wall is None else round(given.events / wall),
        }
        for what, spent, wall in rows
    ]
    if given.json:
        print(json.dumps(table, indent=2))
        return
    for row in table:
        wall_text = "" if row["per_second_of_wall"] is None else f"{row['per_second_of_wall']:>12,}"
        print(f"{row['what']:<30}{row['cpu_us']:>8} us{row['per_second_of_cpu']:>12,}/s{wall_text}")


if __name__ == "__main__":
    main()

"""How fast rows of 1,536 floats become durable in SQLite, beside write() and fsync of the same bytes.

    python -m benchmarks.sqlite [--rows 19207] [--batch 1000] [--runs 5] [--growth 0]

Contestants alternate, each in a new file. `--growth 1000000` then writes so many small rows (64 floats) into one store
and shows the speed by its size: the cost of the index over random fingerprints.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from time import perf_counter

import numpy as np

from aembed.stores.sqlite import SQLiteStore
from aembed.types import Rows, Space

BAR = 0.6
TEXT = "word " * 180


def batch_of(start: int, count: int, dimensions: int) -> Rows:
    random = np.random.default_rng(start)
    fingerprints = [blake2b(b"%d" % number, digest_size=16).digest() for number in range(start, start + count)]
    return Rows(
        ids=[f"{number:07}" for number in range(start, start + count)],
        texts=[f"{number} {TEXT}" for number in range(start, start + count)],
        metadata=[None] * count,
        sources=[None] * count,
        fingerprints=fingerprints,
        digests=fingerprints,
        matrix=random.standard_normal((count, dimensions)).astype(np.float32),
    )


def written(path: Path, batches: Sequence[Rows]) -> float:
    """Rows a second of write() and fsync, once a batch, of ids, texts, fingerprints, digests and vectors."""
    began = perf_counter()
    with path.open("wb", buffering=0) as file:
        for rows in batches:
            parts = [*rows.ids, *rows.texts]
            file.write("".join(parts).encode() + b"".join([*rows.fingerprints, *rows.digests]))
            file.write(rows.matrix.data)
            os.fsync(file.fileno())
    return sum(map(len, batches)) / (perf_counter() - began)


async def upserted(store: SQLiteStore, batches: Sequence[Rows]) -> float:
    began = perf_counter()
    for rows in batches:
        await store.write(rows)
    return sum(map(len, batches)) / (perf_counter() - began)


async def contest(folder: Path, rows: int, batch: int, runs: int) -> dict[str, list[float]]:
    batches = [batch_of(start, min(batch, rows - start), 1_536) for start in range(0, rows, batch)]
    speeds: dict[str, list[float]] = {"write + fsync": [], "new rows": [], "every row again": []}
    for run in range(runs):
        raw, path = folder / f"{run}.raw", folder / f"{run}.db"
        speeds["write + fsync"].append(written(raw, batches))
        store = SQLiteStore(path)
        await store.prepare(Space("x", "m", 1_536))
        speeds["new rows"].append(await upserted(store, batches))
        speeds["every row again"].append(await upserted(store, batches))
        await store.aclose()
        raw.unlink()
        path.unlink()
    return speeds


async def growth(folder: Path, rows: int, batch: int = 2_000) -> None:
    store = SQLiteStore(folder / "grown.db")
    await store.prepare(Space("x", "m", 64))
    began = perf_counter()
    for start in range(0, rows, batch):
        await store.write(batch_of(start, batch, 64))
        if (start + batch) % 100_000 == 0:
            print(f"{start + batch:9,} rows: {100_000 / (perf_counter() - began):8,.0f} rows/s", flush=True)
            began = perf_counter()
    await store.aclose()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=19_207)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--growth", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        speeds = asyncio.run(contest(Path(folder), options.rows, options.batch, options.runs))
        if options.growth:
            asyncio.run(growth(Path(folder), options.growth))
    base = statistics.median(speeds["write + fsync"])
    for name, found in speeds.items():
        median = statistics.median(found)
        print(f"{name:16} {median:8,.0f} rows/s  {median / base:5.2f} of write + fsync")
    return statistics.median(speeds["new rows"]) < BAR * base


if __name__ == "__main__":
    sys.exit(main())

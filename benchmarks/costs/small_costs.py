"""The small costs: `import aembed`, counting tokens, a row into SQLite.

    python -m benchmarks.small_costs [--repeats 7]

Imports are CPU time of new interpreters, in turn. Counting is the measure of every text of 19,207 sections as the
default mode does it. The store writes rows of 1,536 floats into a new file (WAL, synchronous=FULL), a batch a
transaction; its floor is write() and fsync() of the same bytes, batch by batch.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time

import anyio.to_thread
import numpy as np

from aembed import Record, SQLiteStore
from aembed.core.changes import Fingerprinter
from aembed.counters import Measure
from aembed.limits import Limits
from aembed.types import Rows, Space
from benchmarks.results import Bar, finish, median, table
from tests.sections import sections

DIMENSIONS = 1_536
BATCH = 1_200
SPACE = Space("fake", "large", DIMENSIONS)
FLOOR = "import httpx, numpy"
LATER = ("tiktoken", "asyncpg", "typer", "rich")
LIMITS = Limits(max_batch_size=2_048, max_tokens_per_batch=300_000, max_tokens_per_text=8_191)


def imported(code: str) -> float:
    """Seconds of CPU of an interpreter that runs this. What it compiles is kept, as that of installed packages is."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded_too_early() -> list[str]:
    code = f"import aembed, sys; print(*(set({LATER!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def counted(texts: Sequence[str]) -> float:
    entries = [
        Fingerprinter(SPACE, "document", "error", 8_191).make_entry(i, Record(str(i), t)) for i, t in enumerate(texts)
    ]
    measure = Measure(LIMITS, "error", anyio.to_thread.run_sync, exact=False)
    began = process_time()
    assert all(measure.measure_quickly(entry) is not None for entry in entries)
    return process_time() - began


def batches(count: int) -> list[Rows]:
    matrix = np.random.default_rng(1).standard_normal((count, DIMENSIONS), dtype=np.float32)
    found = []
    for start in range(0, count, BATCH):
        ids = [f"section-{number:06d}" for number in range(start, min(start + BATCH, count))]
        marks = [f"{id:.16}".encode() for id in ids]
        nothing = [None] * len(ids)
        found.append(Rows(ids, ids, nothing, nothing, marks, marks, matrix[start : start + len(ids)]))
    return found


async def stored(path: Path, parts: Sequence[Rows]) -> float:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    began = perf_counter()
    for rows in parts:
        await store.write(rows)
    seconds = perf_counter() - began
    await store.aclose()
    return seconds


def written(path: Path, parts: Sequence[Rows]) -> float:
    contents = [rows.matrix.tobytes() for rows in parts]
    began = perf_counter()
    with path.open("wb", buffering=0) as file:
        for content in contents:
            file.write(content)
            os.fsync(file.fileno())
    return perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="nothing is kept")
    options = parser.parse_args()
    texts, parts = sections(), batches(19_200)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for number in range(options.repeats):
            times.setdefault(FLOOR, []).append(imported(FLOOR))
            times.setdefault("import aembed", []).append(imported("import aembed"))
            times.setdefault("count 19,207 sections", []).append(counted(texts))
            times.setdefault("19,200 rows, write() + fsync()", []).append(written(Path(folder) / "bytes", parts))
            path = Path(folder) / f"{number}.db"
            times.setdefault("19,200 rows into SQLite", []).append(asyncio.run(stored(path, parts)))
            path.unlink()
    found = {name: median(values) for name, values in times.items()}
    print(table(("what", "seconds, median"), ([name, f"{value:.4f}"] for name, value in found.items())), end="\n\n")
    bars = [
        Bar("import aembed, to httpx and numpy", found["import aembed"] / found[FLOOR], most=1.3, unit=" x"),
        Bar(f"of {', '.join(LATER)} loaded by import aembed", len(loaded_too_early()), most=0),
        Bar("counting 19,207 sections", found["count 19,207 sections"], most=0.02, unit=" s"),
        Bar(
            "SQLite, to write() and fsync() of the bytes",
            found["19,200 rows, write() + fsync()"] / found["19,200 rows into SQLite"],
            least=0.6,
            unit=" x",
        ),
    ]
    rows = [{"what": name, "seconds": value, "runs": times[name]} for name, value in found.items()]
    return finish("small_costs", rows, bars, keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

"""Tables in and out: Parquet into SQLite and PostgreSQL with a provider that answers at once, and vectors into Parquet.

    python -m benchmarks.costs.tables [--rows 1000000] [--only sqlite|postgresql]

Each job runs in a process of its own. The texts have 250 characters, so that 1,000,000 rows are a file of some 300 MB.
Exits 1 if the memory of a job that reads Parquet grows by more than 150 MB beyond what it has after a tenth of the
rows, if its rate is below 0.8 of that of the same records from a list, or if an export to Parquet takes more than
twice as long as pyarrow takes to write the same table from memory, with its own defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, process_time
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from pyarrow import parquet

from aembed import Embedder, FakeProvider, Record, Reply, Usage, open_store
from aembed.cli._app import app_for, exit_code_of
from aembed.types import InputType
from tests.service.own_process import ROOT, judged
from tests.stage.postgres import Server

DIMENSIONS = 384
MOST_GROWTH_MB = 150.0
LEAST_OF_LIST, LEAST_OF_PYARROW = 0.8, 0.5
WRITTEN_AT_ONCE = 50_000
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima")


class Instant(FakeProvider):
    """Its vectors are none of the texts, and are made once."""

    vectors = np.random.default_rng(1).standard_normal((2_048, DIMENSIONS), np.float32)

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        return Reply(self.vectors[: len(texts)].copy(), self.space.model, Usage(sum(map(len, texts)) // 4))


def text_of(number: int) -> str:
    """Of 250 characters, no two alike, which zstd and snappy make half as large."""
    random = np.random.default_rng(number % 10_007)
    return f"{number} " + " ".join(WORDS[each] for each in random.integers(0, len(WORDS), 42))[:240]


def tables(rows: int) -> Iterator[pa.Table]:
    bodies = [text_of(number).partition(" ")[2] for number in range(min(rows, 10_007))]
    for start in range(0, rows, WRITTEN_AT_ONCE):
        numbers = range(start, min(rows, start + WRITTEN_AT_ONCE))
        texts = [f"{number} {bodies[number % 10_007]}" for number in numbers]
        ids = [f"record-{number:08d}" for number in numbers]
        yield pa.table({"id": ids, "text": texts, "year": [2000 + number % 25 for number in numbers]})


def make_file(path: Path, rows: int) -> None:
    with parquet.ParquetWriter(path, next(tables(1)).schema, compression="none", use_dictionary=False) as writer:
        for table in tables(rows):
            writer.write_table(table)


# jobs, each in a process of its own, which prints one line of JSON


class Memory:
    """The resident memory of this process, looked at twenty times a second."""

    def __init__(self) -> None:
        self._process, self._ended = psutil.Process(), Event()
        self.peak = self.first = 0.0
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, self._process.memory_info().rss / 1e6)

    def settle(self) -> None:
        self.first = self.first or self.peak

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


async def embed(place: str, source: str, path: Path, rows: int) -> dict[str, float]:
    records: Any
    if source == "list":
        records = [
            Record(id, text, {"year": year})
            for table in tables(rows)
            for id, text, year in zip(*(column.to_pylist() for column in table.columns), strict=True)
        ]
    else:
        # pyarrow keeps all that it has read of a file unless it is told not to read ahead.
        records = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1_000_000).iter_batches(1_024)
    memory, store = Memory(), open_store(place)
    begun, begun_cpu = perf_counter(), process_time()
    async with Embedder(Instant(dimensions=DIMENSIONS)) as embedder:
        report = await embedder.embed_into(
            store, records, on_progress=lambda progress: progress.stored >= rows / 10 and memory.settle()
        )
    seconds, cpu_us = perf_counter() - begun, (process_time() - begun_cpu) / rows * 1e6
    await store.aclose()
    memory.stop()
    assert report.stored == rows, str(report)
    return {
        "rate": rows / seconds,
        "cpu_us": cpu_us,
        "peak_mb": memory.peak,
        "growth_mb": memory.peak - (memory.first or memory.peak),
    }


def export(place: str, out: Path) -> dict[str, float]:
    memory, begun = Memory(), perf_counter()
    assert exit_code_of(app_for(["export"]), ["export", str(out), "--store", place, "--quiet", "--overwrite"]) == 0
    seconds = perf_counter() - begun
    memory.stop()
    return {"seconds": seconds, "peak_mb": memory.peak}


def write_from_memory(exported: Path, out: Path) -> dict[str, float]:
    """pyarrow's own: the same table, with its defaults, and synced as ours is."""
    table = parquet.read_table(exported)
    begun = perf_counter()
    parquet.write_table(table, out)
    with out.open("rb+") as file:
        os.fsync(file.fileno())
    return {"seconds": perf_counter() - begun}


def here(arguments: Sequence[str]) -> dict[str, float]:
    match arguments:
        case ["embed", place, source, path, rows]:
            return asyncio.run(embed(place, source, Path(path), int(rows)))
        case ["export", place, out]:
            return export(place, Path(out))
        case ["pyarrow", exported, out]:
            return write_from_memory(Path(exported), Path(out))
    raise SystemExit(f"what is {arguments}?")


def measured(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.costs.tables", "--here", *map(str, arguments)]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def measure(kind: str, new_place: Callable[[str], str], path: Path, rows: int) -> Iterator[str]:
    """What misses its bar."""
    listed = measured("embed", new_place("list"), "list", path, rows)
    read = measured("embed", new_place("parquet"), "parquet", path, rows)
    share = read["rate"] / listed["rate"]
    print(f"{kind}: {listed['rate']:,.0f} rows a second from a list, {read['rate']:,.0f} from Parquet: {share:.2f}")
    print(f"{kind}: {listed['cpu_us']:.1f} us of CPU time a row from a list, {read['cpu_us']:.1f} from Parquet")
    print(f"{kind}: {read['peak_mb']:.0f} MB at the most, {read['growth_mb']:.0f} MB more than after a tenth")
    if share < LEAST_OF_LIST:
        yield f"{kind}: {share:.2f} of the rate from a list, below {LEAST_OF_LIST}"
    if read["growth_mb"] > MOST_GROWTH_MB:
        yield f"{kind}: memory grew by {read['growth_mb']:.0f} MB, more than {MOST_GROWTH_MB:.0f}"
    out = path.with_name(f"{kind}.parquet")
    ours = measured("export", new_place("parquet"), out)
    theirs = measured("pyarrow", out, path.with_name("theirs.parquet"))
    share = theirs["seconds"] / ours["seconds"]
    print(f"{kind}: export in {ours['seconds']:.1f} s with {ours['peak_mb']:.0f} MB, pyarrow from memory in", end=" ")
    print(f"{theirs['seconds']:.1f} s: {share:.2f} of its speed")
    if share < LEAST_OF_PYARROW:
        yield f"{kind}: export at {share:.2f} of pyarrow's speed, below {LEAST_OF_PYARROW}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(here(options.here)))
        return 0
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.parquet")
        make_file(path, options.rows)
        print(f"{options.rows:,} rows, {path.stat().st_size / 1e6:.0f} MB of Parquet, {DIMENSIONS} dimensions")
        if options.only != "postgresql":
            missed += measure("sqlite", lambda name: f"{folder}/{name}.db", path, options.rows)
        if options.only != "sqlite":
            server = Server()
            try:
                missed += measure("postgresql", lambda name: f"{server.url}?table=t_{name}", path, options.rows)
            finally:
                server.stop()
    return judged(missed)


if __name__ == "__main__":
    sys.exit(main())

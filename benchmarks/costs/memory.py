"""One million short records from a generator into SQLite, with the provider in process: the memory stays flat.

    python -m benchmarks.memory [--count 1000000]

Prints the resident memory of the job's process as it goes. Exits 1 if the peak is over 300 MB or if it grows after
the first 50,000.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

from aembed import Embedder, FakeProvider, Progress, Record
from tests.service.own_process import ROOT, judged

MOST_MB = 300.0
MOST_GROWTH = 0.05
SETTLED = 50_000
"""Rows that fill the window and SQLite's cache."""
STEPS = 10


@dataclass(frozen=True, slots=True)
class Sample:
    stored: int
    seconds: float
    resident_mb: float

    def __str__(self) -> str:
        rate = self.stored / self.seconds if self.seconds else 0.0
        return f"{self.stored:>9,} stored  {self.resident_mb:6.1f} MB  {self.seconds:6.1f} s  {rate:8,.0f} a second"


def measured(count: int) -> list[Sample]:
    """The job in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.costs.memory", "--count", str(count), "--here"]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    fields = [line.split() for line in told.splitlines()]
    return [Sample(int(stored), float(seconds), float(megabytes)) for stored, seconds, megabytes in fields]


def problems(samples: Sequence[Sample]) -> Iterator[str]:
    peak = max(sample.resident_mb for sample in samples)
    if peak > MOST_MB:
        yield f"{peak:.0f} MB, more than {MOST_MB:.0f}"
    settled, last = next(sample for sample in samples if sample.stored >= SETTLED), samples[-1]
    if last.resident_mb > settled.resident_mb * (1 + MOST_GROWTH):
        yield f"grew from {settled.resident_mb:.0f} to {last.resident_mb:.0f} MB"


def records(count: int) -> Iterator[Record]:
    return (Record(f"record-{number}", f"a short text, number {number}") for number in range(count))


async def job(count: int, path: Path) -> None:
    process, started, step = psutil.Process(), perf_counter(), max(1, count // STEPS)
    told = 0

    def sample(progress: Progress) -> None:
        nonlocal told
        if progress.stored >= told:
            resident_mb = process.memory_info().rss / 1e6
            print(progress.stored, f"{perf_counter() - started:.3f}", f"{resident_mb:.1f}", flush=True)
            told = (progress.stored // step + 1) * step

    async with Embedder(FakeProvider()) as embedder:
        report = await embedder.embed_into(path, records(count), on_progress=sample)
    if report.stored != count:
        raise SystemExit(f"not all was stored: {report}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--here", action="store_true", help="run the job in this process")
    options = parser.parse_args()
    if options.here:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(job(options.count, Path(folder) / "rows.db"))
        return 0
    samples = measured(options.count)
    print(*samples, sep=os.linesep)
    return judged(list(problems(samples)))


if __name__ == "__main__":
    sys.exit(main())

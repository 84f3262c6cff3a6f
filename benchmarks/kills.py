"""`kill -9` at random moments of the main job, each followed by a restart. The judge is the server's ledger.

    python -m benchmarks.kills [--kills 20] [--count 19207] [--seconds 4] [--seed 1]

The job runs in a process of its own, the simulated service in another. Where a run reaches the end between two kills,
its rows are checked and the next one begins with an empty store. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from aembed import Embedder
from benchmarks.main_job import records
from benchmarks.own_process import KEY, MODEL, ROOT, Service, judged, serving, wrong_rows
from benchmarks.sections import SECTIONS, sections

BATCH, CONCURRENCY = 64, 8
LATENCY = 1.0
"""Of the server: 78 ms and 22 us a token. All sections take about a quarter of a minute."""


@dataclass(slots=True)
class Tally:
    """What the kills came to. `lost` has, for each, how many texts were billed and not stored: in flight."""

    kills: int = 0
    rounds: int = 0
    bought_again: int = 0
    lost: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def bound(self) -> int:
        return CONCURRENCY * BATCH

    def killed(self, lost: int, stored: int) -> None:
        self.kills += 1
        self.lost.append(lost)
        self.stored.append(stored)
        if lost > self.bound:
            self.problems.append(f"{lost} texts were billed and not stored at one kill, {self.bound} were in flight")

    def __str__(self) -> str:
        mean = sum(self.lost) / max(1, len(self.lost))
        return (
            f"{self.kills} kills in {self.rounds} rounds, at {self.stored} rows stored\n"
            f"billed and not stored at a kill: {self.lost}\n"
            f"at most {max(self.lost, default=0)}, {mean:.0f} on average, {self.bound} in flight; "
            f"{self.bought_again} billed twice in all"
        )


async def run(texts: Sequence[str], folder: Path, *, kills: int, seconds: float, seed: int = 1) -> Tally:
    """`seconds` is the longest that the job runs between two kills."""
    tally, random = Tally(), Random(seed)
    while tally.kills < kills:
        tally.rounds += 1
        moments = [random.uniform(0.0, seconds) for _ in range(kills - tally.kills)]
        async with serving("--key", KEY, "--latency", str(LATENCY)) as service:
            await one_round(service, folder / f"rows{tally.rounds}.db", texts, tally, moments)
    return tally


async def one_round(service: Service, path: Path, texts: Sequence[str], tally: Tally, moments: Sequence[float]) -> None:
    """Kills the job at those moments of its runs, and lets it end after the last."""
    lost = 0
    for moment in moments:
        process = await started(service, path, len(texts))
        if not await was_killed(process, moment):
            break
        billed, stored = await settled(service), rows_in(path)
        tally.killed(billed - stored - lost, stored)
        lost = billed - stored
    else:
        process = await started(service, path, len(texts))
    if await process.wait():
        tally.problems.append(f"a job ended with exit code {process.returncode}")
    tally.problems += wrong_rows(path, texts)
    tally.bought_again += await settled(service) - len(texts)


async def started(service: Service, path: Path, count: int) -> Process:
    """The job, once its process says that it begins."""
    options = ["--url", service.url, "--store", str(path), "--count", str(count)]
    command = [sys.executable, "-m", "benchmarks.kills", *options]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begins\n"
    return process


async def was_killed(process: Process, seconds: float) -> bool:
    """False where the job ended before."""
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), seconds)
    if process.returncode is not None:
        return False
    process.kill()
    await process.wait()
    return True


async def settled(service: Service) -> int:
    """How many texts were billed, each as often as it was, once the server has noticed that nobody is there."""
    while True:
        if not (await service.ledger())["in_flight"]:
            return sum((await service.texts()).values())
        await asyncio.sleep(0.01)


def rows_in(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aembed_rows'").fetchone():
            return 0
        rows: int = connection.execute("SELECT count(*) FROM aembed_rows").fetchone()[0]
        return rows


async def job(url: str, path: Path, texts: Sequence[str]) -> None:
    print("begins", flush=True)
    options = {"api_key": KEY, "base_url": url, "concurrency": CONCURRENCY, "max_batch_size": BATCH}
    async with Embedder(MODEL, **options) as embedder:
        await embedder.embed_into(path, records(texts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--seconds", type=float, default=4.0, help="the longest that the job runs between two kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="run the job in this process, against that service")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    texts = sections(options.count)
    if options.url:
        asyncio.run(job(options.url, options.store, texts))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(run(texts, Path(folder), kills=options.kills, seconds=options.seconds, seed=options.seed))
    print(tally)
    return judged(tally.problems)


if __name__ == "__main__":
    sys.exit(main())

"""One client process that works on and on while 2 % of its requests fail and another worker is killed beside it.

    python -m benchmarks.soak [--minutes 30] [--seed 1]

The client runs job after job into one SQLite store, with queries, lists and streams beside them of which some are left
half-way. After each job it tells its resident memory, descriptors, threads and tasks. None of them may have a slope: by
Theil and Sen (the median of the slopes between all pairs of samples), over the last four fifths of the time, the memory
may not grow by more than 5 % of its median (at 1,500 texts a job that is a few bytes a text), the others not by one.
The worker's rows must be right after each kill. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import psutil

from aembed import Embedder, Record, SQLiteStore
from benchmarks.promises.kills import Judge, SQLitePlace, Tally
from tests.service.own_process import KEY, MODEL, ROOT, Service, judged, serving
from tests.stage.victims import Orders, hatching, live

FAULT_RATE = 0.02
TEXTS = 1_500
ASIDE = 200
QUERIES = 20
MOST_GROWTH = 0.05
WARM_UP, WARM_UP_SECONDS = 0.2, 240.0
"""The share of the time after which there is a judgement. Memory was seen to settle within four minutes; a shorter run
has half of its time for that."""
WORKER_TEXTS = [f"text {number} of the worker that is killed" for number in range(3_000)]
KILLED_WITHIN = 4.0


@dataclass(frozen=True, slots=True)
class Sample:
    seconds: float
    resident_mb: float
    descriptors: int
    threads: int
    tasks: int
    failed: int


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one figure: its median, and how much it grew in the whole time by its slope."""

    name: str
    median: float
    growth: float

    @classmethod
    def of(cls, name: str, samples: Sequence[Sample]) -> Trend:
        seconds = np.array([sample.seconds for sample in samples])
        values = np.array([float(getattr(sample, name)) for sample in samples])
        one, other = np.triu_indices(len(samples), 1)
        slope = float(np.median((values[other] - values[one]) / (seconds[other] - seconds[one])))
        return cls(name, float(np.median(values)), slope * float(seconds[-1] - seconds[0]))

    @property
    def most(self) -> float:
        return self.median * MOST_GROWTH if self.name == "resident_mb" else 1.0

    def __str__(self) -> str:
        return (
            f"{self.name:12} median {self.median:7.1f}, growth by its slope {self.growth:+.2f} (most {self.most:.2f})"
        )


# the client, in a process of its own


async def client(url: str, path: Path, minutes: float, seed: int) -> None:
    random, process, began = Random(seed), psutil.Process(), perf_counter()
    store, number = SQLiteStore(path), 0
    async with Embedder(MODEL, api_key=KEY, base_url=url) as embedder:
        while perf_counter() - began < minutes * 60:
            failed = await _job(embedder, store, number, random)
            seconds, number = perf_counter() - began, number + 1
            megabytes, threads = process.memory_info().rss / 1e6, process.num_threads()
            sample = Sample(seconds, megabytes, process.num_fds(), threads, len(asyncio.all_tasks()), failed)
            print(msgspec.json.encode(asdict(sample)).decode(), flush=True)
    await store.aclose()


async def _job(embedder: Embedder, store: SQLiteStore, number: int, random: Random) -> int:
    """One job with what goes on beside it; its rows are removed again. Returns how many texts failed."""
    records = [
        Record(f"{number} {n}", f"job {number}, text {n}" + " word" * random.randrange(200)) for n in range(TEXTS)
    ]
    aside = [f"job {number}, aside {n}" for n in range(ASIDE)]
    queries = [_query(embedder, f"job {number}, query {n}", random.random()) for n in range(QUERIES)]
    report, listed, *_ = await asyncio.gather(
        embedder.embed_into(store, records), embedder.embed_documents(aside), _half(embedder, aside), *queries
    )
    await store.delete([record.id for record in records])
    return report.failed + len(listed.failures)


async def _query(embedder: Embedder, text: str, patience: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await embedder.embed_query(text)


async def _half(embedder: Embedder, texts: Sequence[str]) -> None:
    """A stream that is left."""
    async with embedder.stream([f"{text}, streamed" for text in texts]) as results:
        seen = 0
        async for _ in results:
            seen += 1
            if seen == len(texts) // 2:
                return


# its judges


async def soaked(folder: Path, minutes: float, seed: int) -> tuple[list[Sample], Tally]:
    options = ("--key", KEY, "--latency", "1", "--sigma", "0.5", "--seed", str(seed), "--fault-rate", str(FAULT_RATE))
    async with serving(*options) as service:
        command = ["-m", "benchmarks.promises.soak", "--url", service.url, "--store", str(folder / "client.db")]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, *command, "--minutes", str(minutes), "--seed", str(seed)], cwd=ROOT, stdout=PIPE
        )
        assert process.stdout is not None
        killing = asyncio.create_task(_kills(service, folder, Random(seed)))
        samples = [msgspec.json.decode(line, type=Sample) async for line in process.stdout]
        killing.cancel()
        await asyncio.wait([killing])
        tally = Tally() if killing.cancelled() else killing.result()
        if await process.wait():
            tally.problems.append(f"the client ended with exit code {process.returncode}")
    return samples, tally


async def _kills(service: Service, folder: Path, random: Random) -> Tally:
    """Kills a worker again and again, until this is cancelled."""
    tally = Tally()
    with suppress(asyncio.CancelledError):
        async with hatching() as begin:
            while True:
                await _worker(service, folder / f"worker{tally.rounds}", begin, random, tally)
                tally.rounds += 1
    return tally


async def _worker(service: Service, path: Path, begin: Any, random: Random, tally: Tally) -> None:
    """From its first text to its last, with kills between. Its texts are billed in each round: only rows are judged."""
    judge = Judge(service, SQLitePlace(path), path.with_name(f"{path.name}.told"), WORKER_TEXTS, tally)
    orders = Orders(service.url, str(path), WORKER_TEXTS, str(judge.told), 4, 64)
    while True:
        victim = await begin(live, orders)
        if (code := await victim.ended(random.uniform(0.2, KILLED_WITHIN))) is None:
            await victim.killed()
            tally.kills += 1
        stored = len(await judge.check())
        if code is not None:
            if code or stored < len(WORKER_TEXTS):
                tally.problems.append(f"a worker ended with exit code {code} and {stored} rows")
            break
    _remove(path)


def _remove(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Those after the warm-up."""
    whole = samples[-1].seconds
    from_then = max(WARM_UP * whole, min(WARM_UP_SECONDS, whole / 2))
    return [sample for sample in samples if sample.seconds > from_then]


def problems(trends: Sequence[Trend], samples: Sequence[Sample], tally: Tally) -> Iterator[str]:
    yield from tally.problems
    yield from (f"growth: {trend}" for trend in trends if trend.growth > trend.most)
    if failed := sum(sample.failed for sample in samples):
        yield f"{failed} texts failed"
    if not tally.kills:
        yield "no worker was killed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.url:
        asyncio.run(client(options.url, options.store, options.minutes, options.seed))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        samples, tally = asyncio.run(soaked(Path(folder), options.minutes, options.seed))
    judged_samples = settled(samples)
    trends = [Trend.of(name, judged_samples) for name in ("resident_mb", "descriptors", "threads", "tasks")]
    minutes = samples[-1].seconds / 60
    print(f"{len(samples):,} jobs of {TEXTS:,} texts in {minutes:.1f} minutes; {tally.kills} kills beside it")
    print(*trends, sep="\n")
    return judged(list(problems(trends, samples, tally)))


if __name__ == "__main__":
    sys.exit(main())

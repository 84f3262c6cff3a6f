"""How long a job holds up the event loop that it shares: 5 MB texts, replies of 2,048 x 1,536 in base64.

    python -m benchmarks.loop_gap [--requests 20] [--long 4] [--runs 3]

A callback comes round every millisecond; a gap is how much later than that it came. An idle loop in another process
counts its own at the same time: what it has, too, is the machine's. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, thread_time

import numpy as np

from aembed import Embedder, Record
from tests.service.own_process import KEY, MODEL, ROOT, judged, serving
from tests.stage.vocabulary import write_vocabularies

TICK = 0.001
BATCH = 2_048
LONG_BYTES = 5_000_000
MOST_SECONDS = 0.020


@dataclass(frozen=True, slots=True)
class Gaps:
    """Seconds. `held` is the p99.9 of the CPU time that the loop's own thread used between two rounds, and `own` the
    p99.9 of what of the gaps the whole process can have made: no more than the CPU time of all its threads."""

    rounds: int
    p999: float
    longest: float
    held: float
    own: float

    def __str__(self) -> str:
        return (
            f"p99.9 {self.p999 * 1e3:5.1f} ms, longest {self.longest * 1e3:5.1f} ms, "
            f"of the thread's own p99.9 {self.held * 1e3:5.1f} ms, of the process's {self.own * 1e3:5.1f} ms "
            f"({self.rounds:,} rounds)"
        )


class Ticker:
    """Counts the gaps of the running loop from now on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gaps: list[float] = []
        self._held: list[float] = []
        self._own: list[float] = []
        self._last, self._used, self._used_by_all = perf_counter(), thread_time(), process_time()
        self._handle = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now, used, used_by_all = perf_counter(), thread_time(), process_time()
        self._gaps.append(now - self._last - TICK)
        self._held.append(used - self._used)
        self._own.append(min(self._gaps[-1], used_by_all - self._used_by_all))
        self._last, self._used, self._used_by_all = now, used, used_by_all
        self._handle = self._loop.call_later(TICK, self._tick)

    def stop(self) -> Gaps:
        self._handle.cancel()
        p999, held, own = (float(np.quantile(values, 0.999)) for values in (self._gaps, self._held, self._own))
        return Gaps(len(self._gaps), p999, max(self._gaps), held, own)


def long_records(long: int, run: int) -> list[Record]:
    """Made before the clock runs: a source that makes 5 MB in the loop would be what it counts."""
    words = "These are words of a long text. " * (LONG_BYTES // 32)
    return [Record(f"long {number}", f"run {run} {number}: {words}") for number in range(long)]


def records(requests: int, long: Sequence[Record], run: int) -> Iterator[Record]:
    """Short texts that fill so many requests, with the long ones among them."""
    every = max(1, requests * BATCH // max(1, len(long)))
    for number in range(requests * BATCH - len(long)):
        yield Record(f"{number}", f"run {run}, a short text of the job, number {number}: " + "word " * (number % 20))
        if number % every == every // 2 and number // every < len(long):
            yield long[number // every]


async def job(url: str, folder: Path, requests: int, long: int, run: int) -> Gaps:
    options = {"api_key": KEY, "base_url": url, "max_batch_size": BATCH}
    source = records(requests, long_records(long, run), run)
    async with Embedder(MODEL, too_long="truncate", **options) as embedder:
        ticker = Ticker()
        report = await embedder.embed_into(folder / f"rows{run}.db", source)
        gaps = ticker.stop()
    if report.stored != requests * BATCH:
        raise SystemExit(f"not all was stored: {report}")
    return gaps


@asynccontextmanager
async def idle() -> AsyncIterator[list[str]]:
    """An idle loop in another process; the list has what it counted once the context has ended."""
    told: list[str] = []
    command = [sys.executable, "-m", "benchmarks.costs.loop_gap", "--idle"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begins\n"
    try:
        yield told
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
        told.append(out.decode().strip())


async def count_idle() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ticker = Ticker()
    print("begins", flush=True)
    await stop.wait()
    print(ticker.stop())


async def measured(requests: int, long: int, runs: int) -> list[Gaps]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            async with serving("--key", KEY) as service, idle() as told:
                found.append(await job(service.url, Path(folder), requests, long, run))
                (Path(folder) / f"rows{run}.db").unlink()
            print(f"job   {found[-1]}\nidle  {told[0]}", flush=True)
    return found


def problems(found: Sequence[Gaps]) -> Iterator[str]:
    p999 = median(gaps.p999 for gaps in found)
    if p999 > MOST_SECONDS:
        yield f"p99.9 of the gaps is {p999 * 1e3:.1f} ms, more than {MOST_SECONDS * 1e3:.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20, help="full ones of 2,048 texts")
    parser.add_argument("--long", type=int, default=4, help="how many of the texts have 5 MB")
    parser.add_argument("--runs", type=int, default=3, help="the bar is about their median")
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.idle:
        asyncio.run(count_idle())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_vocabularies(Path(folder))
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        found = asyncio.run(measured(options.requests, options.long, options.runs))
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB at the peak")
    return judged(list(problems(found)))


if __name__ == "__main__":
    sys.exit(main())

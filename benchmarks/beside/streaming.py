"""A million short texts streamed over http: memory that does not depend on how many there are, and texts a second.

    python -m benchmarks.streaming [--count 1000000] [--runs 3]

Vectors of 1,536 floats, from the simulated service in another process, which answers at once; they are counted and
dropped as they come, one in 500 is compared. Growth is the peak of resident memory above that before the first text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from time import perf_counter, process_time

import numpy as np

from aembed import Embedded, Embedder
from benchmarks.beside.peers.child import forget_peak, resident_mb
from benchmarks.results import Bar, finish, median, table
from tests.service.own_process import KEY, MODEL, ROOT, serving
from tests.service.vectors import vector_of

COMPARED = 500
MOST_GROWTH_MB, MOST_OVER_A_TENTH, LEAST_A_SECOND = 256.0, 1.10, 80_000.0


def text_of(number: int) -> str:
    return f"a short text, number {number}"


def texts(count: int) -> Iterator[str]:
    return map(text_of, range(count))


async def job(url: str, count: int) -> dict[str, float]:
    async with Embedder(MODEL, api_key=KEY, base_url=url) as embedder:
        await embedder.embed_documents(["the first text"])
        forget_peak()
        before, cpu, began, seen = resident_mb("VmRSS"), process_time(), perf_counter(), 0
        async with embedder.stream(texts(count)) as results:
            async for result in results:
                seen += 1
                if not isinstance(result, Embedded):
                    raise SystemExit(f"a text failed: {result}")
                if not result.index % COMPARED and not np.array_equal(result.vector, vector_of(text_of(result.index))):
                    raise SystemExit(f"a vector of another text: {result.index}")
        seconds, cpu = perf_counter() - began, process_time() - cpu
    if seen != count:
        raise SystemExit(f"{seen:,} results for {count:,} texts")
    growth = resident_mb("VmHWM") - before
    return {"count": count, "growth_mb": growth, "a_second": count / seconds, "a_cpu_second": count / cpu}


async def measured(url: str, count: int) -> dict[str, float]:
    """The job in a process of its own."""
    command = ("-m", "benchmarks.beside.streaming", "--count", str(count), "--url", url)
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=PIPE)
    told, _ = await process.communicate()
    if process.returncode:
        raise SystemExit("the job failed")
    return dict(json.loads(told))


async def all_runs(count: int, runs: int) -> list[dict[str, float]]:
    found = []
    async with serving("--key", KEY) as service:
        for size in (count // 10, count):
            rows = [await measured(service.url, size) for _ in range(runs)]
            found.append({name: median(row[name] for row in rows) for name in rows[0]})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="nothing is kept")
    parser.add_argument("--url", help="run one job in this process")
    options = parser.parse_args()
    if options.url:
        print(json.dumps(asyncio.run(job(options.url, options.count))))
        return 0
    tenth, whole = rows = asyncio.run(all_runs(options.count, options.runs))
    shown = (
        [
            f"{row['count']:,.0f}",
            f"{row['growth_mb']:.0f} MB",
            f"{row['a_second']:,.0f}",
            f"{row['a_cpu_second']:,.0f}",
        ]
        for row in rows
    )
    print(table(("texts", "growth", "a second", "a second of client CPU"), shown), end="\n\n")
    bars = [
        Bar("growth", whole["growth_mb"], most=MOST_GROWTH_MB, unit=" MB"),
        Bar("growth, to that at a tenth", whole["growth_mb"] / tenth["growth_mb"], most=MOST_OVER_A_TENTH, unit=" x"),
        Bar("texts a second", whole["a_second"], least=LEAST_A_SECOND),
    ]
    return finish("streaming", rows, bars, keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

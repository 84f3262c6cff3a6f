"""The main job: real sections through the simulated service, over real sockets, into SQLite.

    python -m benchmarks.main_job [--count 19207] [--concurrency 8] [--latency 0] [--overcount 0]

Every figure is the server's own count. Exits 1 if a bar is missed. With `--overcount 0.005` the server counts 0.5 %
more than our estimate: one refusal, and two requests more, are allowed then.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from aembed import Embedder, Record, Report
from aembed.core.packing import Cap
from tests.sections import SECTIONS, sections
from tests.service.ledger import tokens_in
from tests.service.own_process import KEY, MODEL, judged, serving, wrong_rows

FULL = Cap(2_048, 300_000)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the job. `ledger` is the server's, of all runs so far."""

    report: Report
    ledger: Mapping[str, Any]
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        rate = self.report.inputs / self.seconds
        return (
            f"{self.report}\n  {rate:,.0f} texts/s, {self.cpu_seconds:.2f} s of CPU in this process; "
            f"the server: {self.ledger['requests']} requests, at most {self.ledger['max_in_flight']} in flight"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    first: Run
    second: Run
    least_requests: int
    concurrency: int
    wrong: Sequence[str]
    refusals: int = 0
    """That are allowed."""

    def problems(self) -> Iterator[str]:
        yield from self.wrong
        first, again = self.first, self.second
        most = self.least_requests + self.concurrency + 2 * self.refusals
        if sum(first.ledger["refused"].values()) > self.refusals:
            yield f"refused: {first.ledger['refused']}"
        if first.ledger["requests"] > most:
            yield f"{first.ledger['requests']} requests, more than {most}; {self.least_requests} are the least"
        if first.ledger["max_in_flight"] > self.concurrency:
            yield f"{first.ledger['max_in_flight']} in flight, more than {self.concurrency}"
        if first.ledger["texts_again"]:
            yield f"{first.ledger['texts_again']} texts were billed twice"
        if again.ledger["requests"] != first.ledger["requests"] or again.report.stored:
            yield f"the second run sent or wrote something: {again.report}"


async def run(
    texts: Sequence[str], path: Path, *, concurrency: int = 8, latency: float = 0.0, overcount: float = 0.0
) -> Outcome:
    async with serving("--key", KEY, "--latency", str(latency), "--overcount", str(overcount)) as service:
        runs = []
        for _ in range(2):
            started, cpu = perf_counter(), process_time()
            async with Embedder(MODEL, api_key=KEY, base_url=service.url, concurrency=concurrency) as embedder:
                report = await embedder.embed_into(path, records(texts))
            seconds, cpu_seconds = perf_counter() - started, process_time() - cpu
            runs.append(Run(report, await service.ledger(), seconds, cpu_seconds))
    tokens = sum(tokens_in(len(text.encode())) for text in texts) * (1.0 + overcount)
    least = FULL.least_batches(len(texts), tokens)
    return Outcome(runs[0], runs[1], least, concurrency, wrong_rows(path, texts), int(overcount > 0.0))


def records(texts: Sequence[str]) -> Iterator[Record]:
    return (Record(f"{index:05}", text) for index, text in enumerate(texts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.0, help="1: 78 ms + 22 us a token; default 0: none")
    parser.add_argument("--overcount", type=float, default=0.0, help="the share that the server counts above bytes / 4")
    options = parser.parse_args()
    texts = sections(options.count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.db"
        outcome = asyncio.run(
            run(texts, path, concurrency=options.concurrency, latency=options.latency, overcount=options.overcount)
        )
    print(f"first   {outcome.first}")
    print(f"second  {outcome.second}")
    print(f"least possible: {outcome.least_requests} requests")
    return judged(list(outcome.problems()))


if __name__ == "__main__":
    sys.exit(main())

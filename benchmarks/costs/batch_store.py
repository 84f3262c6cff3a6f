"""What it costs to collect a batch into PostgreSQL: from files of results to rows, beside psql's \\copy of the rows.

    python -m benchmarks.batch_store [--texts 100000] [--runs 1] [--service openai]

The service is the simulated one in a process of its own. One run of a job submits the texts, the next one collects
them; only that one is measured: it reads the results in the order of the service, and writes the rows meanwhile.
\\copy loads rows of the same width, from a file that is there, into a table of the same shape: as many, or all sections
that this Python's library has, by their rate. Gemini has a line for each text.
Exits 1 if a bar is missed: at least 0.6 of the speed of \\copy, p99.9 of the loop's own gaps at most 20 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from benchmarks.loop_gap import Gaps, Ticker, idle
from benchmarks.stores import DIMENSIONS, batches, copy_file, new_table, psql

from aembed import Embedder, Record, Report, open_provider
from benchmarks.results import Bar
from tests.sections import SECTIONS
from tests.service.own_process import KEY, Service, serving
from tests.stage.postgres import Server, create_database, run_sql

LEAST_OF_COPY, MOST_GAP_MS = 0.6, 20.0
AT_ONCE = {"validating": 0, "running": 0, "finalizing": 0}
MODELS = {"openai": "openai:text-embedding-3-small", "gemini": "gemini:gemini-embedding-001"}


async def run(service: Service, name: str, place: str, records: list[Record]) -> Report:
    url = service.url.replace("/v1", "/v1beta") if name == "gemini" else service.url
    provider = open_provider(MODELS[name], api_key=KEY, base_url=url, dimensions=DIMENSIONS)
    async with Embedder(provider) as embedder:
        return await embedder.embed_into(place, records, batch=True)


async def collected(service: Service, name: str, place: str, texts: int) -> tuple[float, float, Gaps]:
    """Seconds, seconds of CPU, and gaps of the loop."""
    records = [Record(str(number), f"text {number} of the job {place}") for number in range(texts)]
    assert (await run(service, name, place, records)).submitted == texts
    ticker, cpu, began = Ticker(), process_time(), perf_counter()
    report = await run(service, name, place, records)
    seconds, used, gaps = perf_counter() - began, process_time() - cpu, ticker.stop()
    assert report.stored == texts, report
    return seconds, used, gaps


async def measure(server: Server, texts: int, runs: int, name: str) -> list[Bar]:
    database = create_database(server.url, "bench")
    speeds, stalls = list[float](), list[Gaps]()
    with tempfile.TemporaryDirectory() as folder:
        rows = min(texts, SECTIONS)
        parts, path = batches(rows), Path(folder) / "rows.bin"
        await copy_file(path, parts)
        copy = psql(server, path)
        for number in range(runs):
            table = f"copied{number}"
            await new_table(database, table)
            await run_sql(database, "CHECKPOINT")
            began = perf_counter()
            await copy(database, table, parts)
            copied = (perf_counter() - began) * texts / rows
            async with serving() as service:
                await service.script(usual_course=AT_ONCE, batch_service=name)
                await run_sql(database, "CHECKPOINT")
                async with idle() as told:
                    place = f"{database}?table=collected{number}"
                    seconds, used, gaps = await collected(service, name, place, texts)
            print(
                f"{texts:,} texts: \\copy {copied:.1f} s, collected in {seconds:.1f} s with {used:.1f} s of CPU\n"
                f"{gaps}\nan idle loop meanwhile: {told[0]}",
                flush=True,
            )
            speeds.append(copied / seconds)
            stalls.append(gaps)
    gap = median(each.own for each in stalls) * 1e3
    return [
        Bar("speed of collecting, of \\copy's", median(speeds), least=LEAST_OF_COPY),
        Bar("p99.9 of its own gaps", gap, most=MOST_GAP_MS, unit=" ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--service", choices=[*MODELS], default="openai")
    options = parser.parse_args()
    server = Server()
    try:
        bars = asyncio.run(measure(server, options.texts, options.runs, options.service))
    finally:
        server.stop()
    print(*bars, sep="\n")
    return 0 if all(bar.is_met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

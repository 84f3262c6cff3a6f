"""How well clients fill their slots where replies take their time: 0.3 s, lognormal, and 1 ms for 1,000 tokens.

    python -m benchmarks.latency [--repeats 5] [--concurrency 5 32]

The floor is the list schedule of the least number of requests, as large as each other, on the same draws: a client that
costs nothing and uses every slot at once. In each round every contestant meets the same draws in the same order: the
n-th request gets the n-th. "virtual time" is aembed without its own CPU time: the schedule alone.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import sys
from collections.abc import Sequence
from typing import Any

from aembed.core.packing import Cap
from benchmarks import charts
from benchmarks.beside.peers import (
    AEMBED,
    AEMBED_UVLOOP,
    BASETEN_BASE64,
    LANGCHAIN_ALONE,
    LLAMA_INDEX,
    OPENAI,
    Contestant,
)
from benchmarks.beside.peers.contest import Entry, contest
from benchmarks.beside.peers.job import Job
from benchmarks.results import FOLDER, Bar, finish, median, table
from tests.sections import SECTIONS, sections
from tests.service.in_process import embedder_of
from tests.service.ledger import tokens_in
from tests.service.own_process import KEY, serving
from tests.service.server import Latency
from tests.service.service import Service
from tests.stage.clock import run_virtual

CONTESTANTS = (AEMBED, AEMBED_UVLOOP, OPENAI, LLAMA_INDEX, BASETEN_BASE64)
DRAWN = {"scale": 1.0, "fixed": 0.3, "per_token": 1e-6, "sigma": 0.5, "tokens_vary": False}
MOST = {5: 1.06, 32: 1.3}


def floor(texts: Sequence[str], concurrency: int, seed: int) -> float:
    tokens = sum(tokens_in(len(text.encode())) for text in texts)
    least = Cap(2_048, 300_000).least_batches(len(texts), tokens)
    latency = Latency(**DRAWN, seed=seed)
    slots = [0.0] * concurrency
    for number in range(least):
        heapq.heapreplace(slots, slots[0] + latency.seconds(tokens // least, number))
    return max(slots)


async def run(contestants: Sequence[Contestant], texts: Sequence[str], concurrency: int, repeats: int) -> list[Entry]:
    async with serving("--key", KEY) as service:

        async def draw(_: Contestant, number: int) -> None:
            await service.script(latency=DRAWN | {"seed": number})

        job = Job(service.url, KEY, concurrency=concurrency)
        return await contest(contestants, lambda _: job, texts, ["cpu"] * (repeats + 1), between=draw)


async def scheduled(texts: Sequence[str], concurrency: int, seed: int) -> float:
    """Virtual seconds of a warm aembed."""
    service, clock = Service(), asyncio.get_running_loop().time
    async with embedder_of(service, Latency(**DRAWN, seed=seed, first=1), concurrency=concurrency) as embedder:
        await embedder.embed_documents(["the first text"])
        began = clock()
        await embedder.embed_documents(texts)
        return clock() - began


def virtual(texts: Sequence[str], concurrency: int, repeats: int) -> dict[str, Any]:
    seeds = range(1, repeats + 1)
    walls = [run_virtual(scheduled, texts, concurrency, seed) for seed in seeds]
    found = [wall / floor(texts, concurrency, seed) for wall, seed in zip(walls, seeds, strict=True)]
    return {
        "concurrency": concurrency,
        "contestant": "aembed, virtual time",
        "version": "",
        "settings": "defaults",
        "to_floor": median(found),
        "wall": median(walls),
        "lost": 0,
        "ratios": found,
    }


def ratios(entry: Entry, texts: Sequence[str], concurrency: int) -> list[float]:
    """Of each round but the first, in which imports and connections are new."""
    walls = [result.wall for result in entry.results]
    return [wall / floor(texts, concurrency, seed) for seed, wall in enumerate(walls)][1:]


def as_row(entry: Entry, texts: Sequence[str], concurrency: int) -> dict[str, Any]:
    found = ratios(entry, texts, concurrency)
    return {
        "concurrency": concurrency,
        "contestant": entry.contestant.name,
        "version": entry.version,
        "settings": entry.contestant.settings,
        "to_floor": median(found),
        "wall": median(result.wall for result in entry.results[1:]),
        "lost": max(result.lost + result.wrong for result in entry.results),
        "ratios": found,
    }


def chart(rows: Sequence[dict[str, Any]], concurrency: int) -> str:
    real = (row for row in rows if row["concurrency"] == concurrency and not row["contestant"].endswith("virtual time"))
    drawn = sorted(real, key=lambda row: row["to_floor"])
    return charts.bars(
        f"Wall time to the floor, {concurrency} requests at a time",
        [
            charts.BarRow(
                f"{row['contestant']} {row['version']}".strip(),
                row["to_floor"],
                f"{row['to_floor']:.2f} x",
                "ours" if row["contestant"] in (AEMBED.name, AEMBED_UVLOOP.name) else "peer",
            )
            for row in drawn
        ],
        subtitle="replies after 0.3 s, lognormal, + 1 ms per 1,000 tokens; 1 is the best that is possible; median",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[5, 32])
    parser.add_argument("--quick", action="store_true", help="nothing is kept")
    options = parser.parse_args()
    texts = sections(options.count)
    rows: list[dict[str, Any]] = []
    for concurrency in options.concurrency:
        rows.append(virtual(texts, concurrency, options.repeats))
        entries = asyncio.run(run(CONTESTANTS, texts, concurrency, options.repeats))
        # One batch after another takes ten times as long: one round is enough.
        for entry in entries + asyncio.run(run([LANGCHAIN_ALONE], texts, concurrency, 1)):
            if entry.absent:
                print(f"{entry.contestant.name} does not take part: {entry.absent}")
            else:
                rows.append(as_row(entry, texts, concurrency))
    shown = (
        [
            f"{row['contestant']} {row['version']}",
            str(row["concurrency"]),
            f"{row['wall']:.2f} s",
            f"{row['to_floor']:.2f} x",
            f"{row['lost']:,}",
        ]
        for row in rows
    )
    print(table(("contestant", "at a time", "wall", "to the floor", "lost or wrong"), shown), end="\n\n")
    print(*(f"{peer.name}: {peer.settings}" for peer in (*CONTESTANTS, LANGCHAIN_ALONE)), sep="\n", end="\n\n")
    if not options.quick:
        charts.write(FOLDER / "latency.svg", chart(rows, options.concurrency[0]))
    bars = [
        Bar(f"wall at concurrency {row['concurrency']}, to list scheduling", row["to_floor"], most=most, unit=" x")
        for row in rows
        if row["contestant"] == AEMBED.name and (most := MOST.get(row["concurrency"]))
    ]
    return finish("latency", rows, bars, keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

"""Five requests in a hundred fail (500, 503, hang, cut, truncated): what is lost, and what it costs in time.

    python -m benchmarks.with_faults [--repeats 5] [--quick]

19,207 sections in batches of at most 128 texts, 8 at a time; replies after 0.3 s, lognormal. Every contestant runs
each seed with and without faults, on the same draws. "tuned" is ten retries (six where no more are allowed) and a
timeout of 3 s; those left as they come get a timeout of 20 s, because their own is one to sixty minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import charts
from benchmarks.beside.peers import AEMBED, BASETEN_BASE64, LLAMA_INDEX, OPENAI, THREAD_POOL, Contestant
from benchmarks.beside.peers.contest import Entry, contest
from benchmarks.beside.peers.job import Job
from benchmarks.results import FOLDER, Bar, finish, median, table
from tests.sections import SECTIONS, sections
from tests.service.own_process import KEY, Service, serving

RATE = 0.05
MOST_TEXTS = 128
DRAWN = {"scale": 1.0, "fixed": 0.3, "per_token": 1e-6, "sigma": 0.25, "tokens_vary": False}
OPENAI_TUNED = replace(OPENAI, name="openai-python, tuned")
BASETEN_TUNED = replace(BASETEN_BASE64, name="baseten client, tuned")
TUNED = (OPENAI_TUNED, BASETEN_TUNED)
PEERS = (OPENAI, OPENAI_TUNED, LLAMA_INDEX, THREAD_POOL, BASETEN_BASE64, BASETEN_TUNED)


def job_of(service: Service, contestant: Contestant) -> Job:
    job = Job(service.url, KEY, max_texts=MOST_TEXTS)
    if contestant is AEMBED:
        return job
    return replace(job, timeout=3.0, retries=10) if contestant in TUNED else replace(job, timeout=20.0)


async def run(contestants: Sequence[Contestant], texts: Sequence[str], repeats: int) -> list[Entry]:
    """Rounds in pairs: without faults, then with them."""
    async with serving("--key", KEY) as service:

        async def begin(_: Contestant, number: int) -> None:
            seed, faulty = divmod(number, 2)
            await service.script(latency=DRAWN | {"seed": seed}, random={"seed": seed, "rate": RATE if faulty else 0.0})

        rounds = ["cpu"] * 2 * repeats
        return await contest(contestants, lambda each: job_of(service, each), texts, rounds, between=begin)


def as_row(entry: Entry, texts: int) -> dict[str, Any]:
    proper, faulty = entry.results[::2], entry.results[1::2]
    ratios = [bad.wall / good.wall for good, bad in zip(proper, faulty, strict=False)]
    return {
        "contestant": entry.contestant.name,
        "version": entry.version,
        "settings": entry.contestant.settings,
        "without": median(result.wall for result in proper),
        "with": median(result.wall for result in faulty),
        "ratio": median(ratios),
        "lost": max(result.lost + result.wrong for result in entry.results) / texts,
        "ratios": ratios,
    }


def chart(rows: Sequence[dict[str, Any]]) -> str:
    return charts.bars(
        "Wall time with 5 % of the requests failing, to that without",
        [
            charts.BarRow(
                row["contestant"],
                0.0 if row["lost"] == 1 else row["ratio"],
                shown(row),
                "ours" if row["contestant"] == AEMBED.name else "peer",
            )
            for row in rows
        ],
        subtitle="500, 503, a hung call, a cut connection, a truncated body; median",
    )


def shown(row: dict[str, Any]) -> str:
    """A run that stopped at the first broken reply is not a fast one."""
    if row["lost"] == 1:
        return "all texts lost"
    return f"{row['ratio']:.2f} x" + (f", {row['lost']:.1%} lost" if row["lost"] else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="aembed alone, nothing is kept")
    options = parser.parse_args()
    texts = sections(options.count)
    entries = asyncio.run(run([AEMBED], texts, options.repeats))
    if not options.quick:
        entries += asyncio.run(run(PEERS, texts, 1))
    for entry in entries:
        if entry.absent:
            print(f"{entry.contestant.name} does not take part: {entry.absent}")
    rows = [as_row(entry, len(texts)) for entry in entries if not entry.absent]
    lines = (
        [
            f"{row['contestant']} {row['version']}",
            f"{row['without']:.1f} s",
            f"{row['with']:.1f} s",
            shown(row),
        ]
        for row in rows
    )
    print(table(("contestant", "without faults", "with", "ratio"), lines), end="\n\n")
    if not options.quick:
        charts.write(FOLDER / "with_faults.svg", chart(rows))
    ours = rows[0]
    bars = [
        Bar("5 % faults, wall to that without", ours["ratio"], most=1.3, unit=" x"),
        Bar("5 % faults, share of texts lost", ours["lost"], most=0),
    ]
    return finish("with_faults", rows, bars, keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

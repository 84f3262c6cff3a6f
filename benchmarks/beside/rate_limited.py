"""An account limited by tokens a minute: what is lost, what is refused, and how close the wall comes to the floor.

    python -m benchmarks.rate_limited [--repeats 2] [--quick]

19,207 sections (4.4 million tokens) on 10 million tokens a minute, in real time. The floor is all tokens at that rate.
The account is a bucket of a tenth of a minute that starts full: a client that counts on that can end up to 6 s before
the floor. Refusals are the server's own count of 429s. Peers run once: their walls follow from their retries, not from
this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import charts
from benchmarks.beside.peers import AEMBED_PACED, AEMBED_UNAWARE, BASETEN_BASE64, LLAMA_INDEX, OPENAI, Contestant
from benchmarks.beside.peers.contest import contest
from benchmarks.beside.peers.job import Job
from benchmarks.results import FOLDER, Bar, finish, median, table
from tests.sections import SECTIONS, sections
from tests.service.ledger import tokens_in
from tests.service.own_process import KEY, Service, serving

TOKENS_PER_MINUTE = 10_000_000
LIMITS = {"window": "bucket", "tokens_per_minute": TOKENS_PER_MINUTE}
OPENAI_TEN = replace(OPENAI, name="openai-python, ten retries")
OURS = (AEMBED_PACED, AEMBED_UNAWARE)
PEERS = (OPENAI, OPENAI_TEN, LLAMA_INDEX, BASETEN_BASE64)


def floor(texts: Sequence[str]) -> float:
    tokens = sum(tokens_in(len(text.encode())) for text in texts)
    return tokens / TOKENS_PER_MINUTE * 60


def job_of(service: Service, contestant: Contestant) -> Job:
    job = Job(service.url, KEY)
    if contestant is AEMBED_PACED:
        return replace(job, tokens_per_minute=TOKENS_PER_MINUTE)
    return replace(job, retries=10) if contestant is OPENAI_TEN else job


async def run(contestants: Sequence[Contestant], texts: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """A full bucket and an empty ledger before each run; the ledger of a run is read before the next."""
    async with serving("--key", KEY) as service:
        ledgers: dict[str, list[Any]] = {}
        running: Contestant | None = None

        async def settle() -> None:
            if running:
                ledgers.setdefault(running.name, []).append(await service.ledger())

        async def begin(contestant: Contestant, _: int) -> None:
            nonlocal running
            await settle()
            running = contestant
            await service.script(limits=dict(LIMITS), clear_ledger=True)

        job = job_of
        entries = await contest(contestants, lambda each: job(service, each), texts, ["cpu"] * repeats, between=begin)
        await settle()
    rows = []
    for entry in entries:
        if entry.absent:
            print(f"{entry.contestant.name} does not take part: {entry.absent}")
            continue
        counted = ledgers[entry.contestant.name]
        requests = sum(ledger["requests"] for ledger in counted)
        rows.append(
            {
                "contestant": entry.contestant.name,
                "version": entry.version,
                "settings": entry.contestant.settings,
                "wall": median(result.wall for result in entry.results),
                "to_floor": median(result.wall for result in entry.results) / floor(texts),
                "requests": requests / len(counted),
                "refused": sum(ledger["rate_limited"] for ledger in counted) / requests,
                "lost": max(result.lost + result.wrong for result in entry.results),
                "walls": [result.wall for result in entry.results],
            }
        )
    return rows


def chart(rows: Sequence[dict[str, Any]], texts: int) -> str:
    return charts.bars(
        "Requests refused with 429 where tokens a minute are limited",
        [
            charts.BarRow(
                row["contestant"],
                row["refused"],
                f"{row['refused']:.0%}, "
                + (f"{row['lost'] / texts:.0%} of texts lost" if row["lost"] else "none lost"),
                "ours" if row["contestant"].startswith("aembed") else "peer",
            )
            for row in rows
        ],
        subtitle=f"{texts:,} sections, 4.4 million tokens, on an account of 10 million a minute",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="aembed once, nothing is kept")
    options = parser.parse_args()
    texts = sections(options.count)
    rows = asyncio.run(run(OURS, texts, 1 if options.quick else options.repeats))
    if not options.quick:
        rows += asyncio.run(run(PEERS, texts, 1))
        charts.write(FOLDER / "rate_limited.svg", chart(rows, len(texts)))
    shown = (
        [
            f"{row['contestant']} {row['version']}",
            f"{row['wall']:.1f} s",
            f"{row['to_floor']:.3f} x",
            f"{row['requests']:.0f}",
            f"{row['refused']:.1%}",
            f"{row['lost']:,}",
        ]
        for row in rows
    )
    print(f"floor {floor(texts):.1f} s")
    print(table(("contestant", "wall", "to the floor", "requests", "refused", "lost or wrong"), shown), end="\n\n")
    bars = []
    for row, refused in zip(rows, (0.0, 0.02), strict=False):
        limit = "known" if row["contestant"] == AEMBED_PACED.name else "unknown"
        bars += [
            Bar(f"limit {limit}, wall to the floor", row["to_floor"], most=1.04, unit=" x"),
            Bar(f"limit {limit}, requests refused", row["refused"], most=refused),
            Bar(f"limit {limit}, texts lost", row["lost"], most=0),
        ]
    return finish("rate_limited", rows, bars, keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

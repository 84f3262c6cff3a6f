"""19,207 sections before and after: one text a request against aembed, 8 at a time; then the floor of every tier.

    python -m benchmarks.headline [--repeats 3] [--quick]

*Real time*, real sockets: every reply takes what OpenAI's took when recorded, 78 ms + 22 us a token. One text a request
(openai-python) is timed on every tenth section and multiplied by ten: its requests are all alike. aembed and
openai-python in batches do all of them.

*Virtual time*, the whole of aembed, the simulated service without sockets: each tier of OpenAI's accounts with its
limits, known and unknown, over a bucket of a tenth of a minute. Where tokens are the limit the floor is all tokens at
that rate; where the provider's own speed is, the floor is its time for all tokens over the slots. CPU time counts
nothing there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import charts
from benchmarks.beside.peers import AEMBED, ONE_A_REQUEST, OPENAI
from benchmarks.beside.peers.contest import Entry, contest
from benchmarks.beside.peers.job import Job
from benchmarks.results import FOLDER, Bar, finish, median, table
from tests.sections import SECTIONS, sections
from tests.service.in_process import embedder_of
from tests.service.ledger import tokens_in
from tests.service.limits import RateLimits
from tests.service.own_process import KEY, serving
from tests.service.server import Latency
from tests.service.service import Service
from tests.stage.clock import run_virtual

CONCURRENCY = 8
TENTH = 10
AS_RECORDED = Latency(1.0)


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    requests_per_minute: int
    tokens_per_minute: int


TIERS = (
    Tier("Tier 1", 3_000, 1_000_000),
    Tier("Tier 2", 5_000, 1_000_000),
    Tier("Tier 3", 5_000, 5_000_000),
    Tier("Tier 4", 10_000, 5_000_000),
    Tier("Tier 5", 10_000, 10_000_000),
)


def tokens_of(texts: Sequence[str]) -> int:
    return sum(tokens_in(len(text.encode())) for text in texts)


def floor(texts: Sequence[str], tier: Tier) -> tuple[float, str]:
    """Seconds, and what sets them."""
    tokens = tokens_of(texts)
    by_limit = tokens / tier.tokens_per_minute * 60
    by_server = (tokens * AS_RECORDED.per_token + len(texts) / 2_048 * AS_RECORDED.fixed) / CONCURRENCY
    return max((by_limit, "tokens a minute"), (by_server, "the provider's speed"))


def one_a_request(texts: Sequence[str], tier: Tier) -> float:
    """The least that one text a request can take on a tier: a client that is never refused and costs nothing."""
    seconds = sum(AS_RECORDED.seconds(tokens_in(len(text.encode())), 0) for text in texts) / CONCURRENCY
    return max(seconds, len(texts) / tier.requests_per_minute * 60, tokens_of(texts) / tier.tokens_per_minute * 60)


async def on_tier(texts: Sequence[str], tier: Tier, known: bool) -> tuple[float, int, int]:
    """Virtual seconds, requests, refusals."""
    limits = RateLimits.of("bucket", tier.requests_per_minute, tier.tokens_per_minute)
    service = Service(limits=limits)
    given = {"tokens_per_minute": tier.tokens_per_minute, "requests_per_minute": tier.requests_per_minute}
    async with embedder_of(service, AS_RECORDED, concurrency=CONCURRENCY, **(given if known else {})) as embedder:
        began = asyncio.get_running_loop().time()
        embeddings = await embedder.embed_documents(texts)
        seconds = asyncio.get_running_loop().time() - began
    embeddings.raise_for_failures()
    return seconds, service.ledger.requests, service.ledger.rate_limited


def tiers(texts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for tier in TIERS:
        seconds, cause = floor(texts, tier)
        for known in (True, False):
            wall, requests, refused = run_virtual(on_tier, texts, tier, known)
            rows.append(
                {
                    "tier": tier.name,
                    "limit": "given" if known else "unknown",
                    "floor": seconds,
                    "set_by": cause,
                    "aembed": wall,
                    "to_floor": wall / seconds,
                    "requests": requests,
                    "refused": refused,
                    "one_a_request": one_a_request(texts, tier),
                }
            )
    return rows


async def real(texts: Sequence[str], repeats: int) -> tuple[list[Entry], list[Entry]]:
    async with serving("--key", KEY, "--latency", "1") as service:
        job = Job(service.url, KEY, concurrency=CONCURRENCY)
        batched = await contest([AEMBED, OPENAI], lambda _: job, texts, ["cpu"] * repeats)
        return batched, await contest([ONE_A_REQUEST], lambda _: job, texts[::TENTH], ["cpu"] * repeats)


def real_rows(entries: Sequence[Entry], times: int) -> list[dict[str, Any]]:
    return [
        {
            "contestant": entry.contestant.name,
            "version": entry.version,
            "settings": entry.contestant.settings,
            "wall": times * median(result.wall for result in entry.results),
            "cpu": times * median(result.cpu for result in entry.results),
            "lost": max(result.lost + result.wrong for result in entry.results),
            "walls": [result.wall for result in entry.results],
        }
        for entry in entries
        if not entry.absent
    ]


def chart(rows: Sequence[dict[str, Any]], texts: int) -> str:
    return charts.bars(
        f"{texts:,} sections, {CONCURRENCY} requests at a time",
        [
            charts.BarRow(row["contestant"], row["wall"], f"{row['wall']:.0f} s", "ours" if row is rows[0] else "peer")
            for row in rows
        ],
        subtitle="seconds, median; the provider takes 78 ms + 22 us a token, as OpenAI did when recorded",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the tiers alone, nothing is kept")
    options = parser.parse_args()
    texts = sections(options.count)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    if not options.quick:
        batched, single = asyncio.run(real(texts, options.repeats))
        rows = real_rows(batched, 1) + real_rows(single, TENTH)
        shown = ([row["contestant"], f"{row['wall']:.1f} s", f"{row['cpu']:.1f} s", f"{row['lost']:,}"] for row in rows)
        print(table(("contestant", "wall", "client CPU", "lost or wrong"), shown), end="\n\n")
        charts.write(FOLDER / "headline.svg", chart(rows, len(texts)))
        bars.append(Bar("one text a request, to aembed", rows[-1]["wall"] / rows[0]["wall"], least=10, unit=" x"))
    tier_rows = tiers(texts)
    shown = (
        [
            f"{row['tier']}, limit {row['limit']}",
            f"{row['floor']:.1f} s",
            f"{row['aembed']:.1f} s",
            f"{row['to_floor']:.3f} x",
            str(row["requests"]),
            str(row["refused"]),
            f"{row['one_a_request']:.0f} s",
        ]
        for row in tier_rows
    )
    head = ("account, virtual time", "floor", "aembed", "to the floor", "requests", "refused", "one a request, least")
    print(table(head, shown), end="\n\n")
    for limit in ("given", "unknown"):
        found = [row for row in tier_rows if row["limit"] == limit and row["set_by"] == "tokens a minute"]
        worst = max(row["to_floor"] for row in found)
        bars.append(Bar(f"token-limited tiers, limit {limit}, the worst to its floor", worst, most=1.05, unit=" x"))
    return finish("headline", rows + tier_rows, bars, keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

"""What a client costs: CPU time, memory and stalls of its process for 19,207 vectors of 1,536 floats, http and TLS.

    python -m benchmarks.client_cost [--repeats 5] [--quick]

The server is another process and answers at once. The first round of each contestant is for its memory, the next are
for its CPU time, the last are watched for stalls of the event loop, which costs CPU time itself. Those that no bar is
about have fewer rounds; haystack embeds every tenth section, and its figures are multiplied by ten. aembed on uvloop
stands beside aembed on asyncio's own loop.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.beside.peers import (
    AEMBED,
    AEMBED_UVLOOP,
    BASETEN_BASE64,
    BASETEN_NUMPY,
    BLOCKING,
    HAYSTACK,
    LANGCHAIN,
    LITELLM,
    LLAMA_INDEX,
    OPENAI,
    RAW_ASYNCIO,
    THREAD_POOL,
    Contestant,
)
from benchmarks.beside.peers.contest import Entry, Watch, contest
from benchmarks.beside.peers.job import Job
from benchmarks.results import FOLDER, Bar, finish, median, table
from tests.sections import SECTIONS, sections
from tests.service.own_process import KEY, serving

OVER_HTTP = (AEMBED, AEMBED_UVLOOP, BLOCKING, RAW_ASYNCIO, OPENAI, BASETEN_NUMPY, BASETEN_BASE64)
NO_BAR = (THREAD_POOL, LANGCHAIN, LLAMA_INDEX, LITELLM)
TENTH = 10
OVER_TLS = (AEMBED, AEMBED_UVLOOP, RAW_ASYNCIO, OPENAI, BASETEN_NUMPY, BASETEN_BASE64)


def certificate(folder: Path) -> Path:
    """A key and its certificate for 127.0.0.1 in one PEM file, by the openssl command."""
    pem = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem)]
    made = subprocess.run(command, check=True, capture_output=True).stdout
    pem.write_bytes(pem.read_bytes() + made)
    return pem


async def over_http(texts: Sequence[str], rounds: Sequence[Watch]) -> list[Entry]:
    async with serving("--key", KEY) as service:
        entries = await contest(OVER_HTTP, lambda _: Job(service.url, KEY), texts, rounds)
        entries += await contest(NO_BAR, lambda _: Job(service.url, KEY), texts, ["cpu", "cpu", "cpu", "stall"])
        # It types each float in Python, a minute of CPU for all: every tenth section, times ten.
        return entries + await contest([HAYSTACK], lambda _: Job(service.url, KEY), texts[::TENTH], ["cpu", "cpu"])


async def over_tls(texts: Sequence[str], rounds: Sequence[Watch]) -> list[Entry]:
    with tempfile.TemporaryDirectory() as folder:
        pem = await asyncio.to_thread(certificate, Path(folder))
        async with serving("--key", KEY, "--certificate", str(pem)) as service:
            trusting = {"SSL_CERT_FILE": str(pem)}
            return await contest(OVER_TLS, lambda _: Job(service.url, KEY), texts, rounds, environment=trusting)


class Figures:
    """The medians of one contestant. Its first round is cold: only its memory counts, unless it is the only one."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        warm = entry.results[1:] or entry.results
        times = TENTH if entry.contestant is HAYSTACK else 1
        self.cpu = times * median(result.cpu for result in warm if result.stall is None)
        self.wall = times * median(result.wall for result in warm if result.stall is None)
        self.stall = median(result.stall for result in warm if result.stall is not None)
        self.growth_mb = times * entry.results[0].growth_mb
        self.wrong = max(result.wrong + result.lost for result in entry.results)

    def row(self, ours: Figures) -> list[str]:
        ratio = f"{self.cpu / ours.cpu:.2f} x"
        stall = f"{self.stall * 1000:.0f} ms" if self.stall == self.stall else "-"
        growth = f"{self.growth_mb:,.0f} MB"
        return [self.entry.name, f"{self.cpu:.2f} s", ratio, f"{self.wall:.2f} s", growth, stall, f"{self.wrong:,}"]


HEAD = ("contestant", "client CPU", "to aembed", "wall", "memory", "stall", "lost or wrong")


def figures(entries: Sequence[Entry]) -> dict[Contestant, Figures]:
    for entry in entries:
        if entry.absent:
            print(f"{entry.contestant.name} does not take part: {entry.absent}")
    return {entry.contestant: Figures(entry) for entry in entries if entry.results}


def bars_of(http: Mapping[Contestant, Figures], tls: Mapping[Contestant, Figures]) -> list[Bar]:
    ours, ours_tls = http[AEMBED], tls[AEMBED]
    bars = [
        Bar("client CPU, to a blocking socket", ours.cpu / http[BLOCKING].cpu, most=2.5, unit=" x"),
        Bar("client CPU over TLS, to raw asyncio", ours_tls.cpu / tls[RAW_ASYNCIO].cpu, most=1.6, unit=" x"),
        Bar("memory beyond the result", ours.growth_mb, most=100, unit=" MB"),
        Bar("longest stall", ours.stall * 1000, most=20, unit=" ms"),
    ]
    wanted = (("", http, ours, OPENAI, 8), ("", http, ours, BASETEN_NUMPY, 4), (" over TLS", tls, ours_tls, OPENAI, 6))
    for where, found, base, peer, least in wanted:
        if peer in found:
            ratio = found[peer].cpu / base.cpu
            bars.append(Bar(f"client CPU{where}, {peer.name} to aembed", ratio, least=least, unit=" x"))
    return bars


def chart(found: Mapping[Contestant, Figures], texts: int) -> str:
    rows = [
        charts.BarRow(
            figures.entry.name,
            figures.cpu,
            f"{figures.cpu:.2f} s",
            "ours" if contestant in (AEMBED, AEMBED_UVLOOP) else "limit" if contestant.distribution is None else "peer",
        )
        for contestant, figures in sorted(found.items(), key=lambda pair: pair[1].cpu)
        if contestant is not HAYSTACK
    ]
    haystack = f"haystack, not drawn: {found[HAYSTACK].cpu:.0f} s" if HAYSTACK in found else ""
    return charts.bars(
        f"CPU time of the client for {texts:,} vectors of 1,536 floats, http",
        rows,
        subtitle="seconds, user and system, median; shorter is better; blue: no client library at all",
        note=haystack,
    )


def as_rows(where: str, found: Mapping[Contestant, Figures]) -> list[dict[str, Any]]:
    return [
        {
            "where": where,
            "contestant": contestant.name,
            "version": figures.entry.version,
            "settings": contestant.settings,
            "cpu": figures.cpu,
            "wall": figures.wall,
            "growth_mb": figures.growth_mb,
            "stall": figures.stall,
            "runs": [asdict(result) for result in figures.entry.results],
        }
        for contestant, figures in found.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="nothing is kept")
    options = parser.parse_args()
    texts = sections(options.count)
    rounds: list[Watch] = ["cpu", *["cpu"] * options.repeats, *["stall"] * (options.repeats // 2 + 1)]
    http = figures(asyncio.run(over_http(texts, rounds)))
    tls = figures(asyncio.run(over_tls(texts, rounds[: options.repeats + 1])))
    for where, found in (("http", http), ("TLS", tls)):
        print(f"\n{where}, {len(texts):,} x 1,536\n{table(HEAD, (each.row(found[AEMBED]) for each in found.values()))}")
    print()
    print(*(f"{peer.name}: {peer.settings}" for peer in http), sep="\n", end="\n\n")
    if not options.quick:
        charts.write(FOLDER / "client_cost.svg", chart(http, len(texts)))
    rows = as_rows("http", http) + as_rows("tls", tls)
    return finish("client_cost", rows, bars_of(http, tls), keep=not options.quick)


if __name__ == "__main__":
    sys.exit(main())

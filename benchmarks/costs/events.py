"""What `on_event` costs a request: nothing where nobody listens, by an earlier build, and little where somebody does.

    python -m benchmarks.costs.events [--before REVISION] [--turns 150] [--requests 200]

Each contestant is a process that waits for its turn and then makes so many requests of one text; they take turns in a
random order, and only one works at a time. Figures are CPU time of the process. A turn of `queries` asks one query
after the other of the simulated service, which is another process: the smallest request that there is. A turn of `bulk`
is a job of as many texts, one a request, of a provider in the process that answers at once: what aembed itself costs
and nothing else. What a listener costs is the median over the turns of the difference to the same turn without one.

Exits 1 if a request without a listener costs more than 1 % more than in the build of --before (over sockets), or a
listener that only counts adds more than 25 us to a request. What OpenTelemetry costs is told, with its own SDK as
programs set it up (batches of spans to an exporter that drops them), and without any, as a library leaves it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from random import Random

from benchmarks.beside.peers import environment
from benchmarks.results import Bar, finish, median, table
from tests.service.own_process import KEY, ROOT, serving

CHILD = Path(__file__).with_name("events_turns.py")
PARTS = ("queries", "bulk")
LISTENERS = ("none", "counts", "otel without SDK", "otel with SDK")
MOST_PERCENT, MOST_US = 1.0, 25.0


async def begin(build: Path, listener: str, part: str, url: str) -> Process:
    paths = {"PYTHONPATH": str(build), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}
    command = (sys.executable, "-P", str(CHILD), part, listener)
    return await asyncio.create_subprocess_exec(*command, env=os.environ | paths, cwd="/", stdin=PIPE, stdout=PIPE)


async def turn(contestant: Process, requests: int) -> float:
    """Microseconds of CPU time a request."""
    assert contestant.stdin
    assert contestant.stdout
    contestant.stdin.write(f"{requests}\n".encode())
    await contestant.stdin.drain()
    return float(await contestant.stdout.readline()) / requests * 1e6


async def measure(
    part: str, builds: Mapping[str, tuple[Path, str]], turns: int, requests: int
) -> dict[str, list[float]]:
    random = Random(1)
    found: dict[str, list[float]] = {name: [] for name in builds}
    async with serving("--key", KEY) as service:
        there = {name: await begin(*build, part, service.url) for name, build in builds.items()}
        try:
            for contestant in there.values():
                await turn(contestant, requests)  # imports, connections
            for _ in range(turns):
                for name in random.sample([*there], len(there)):
                    found[name].append(await turn(there[name], requests))
        finally:
            for contestant in there.values():
                contestant.terminate()
                await contestant.wait()
    return found


def added(found: Mapping[str, list[float]], name: str, to: str) -> float:
    """Microseconds a request that one costs more than another, turn by turn."""
    return median(one - other for one, other in zip(found[name], found[to], strict=True))


async def run(options: argparse.Namespace) -> int:
    builds = {name: (ROOT, name) for name in LISTENERS}
    if options.before:
        builds = {"before": (environment.build_of(options.before), "none"), **builds}
    rows, bars = [], []
    for part in options.only:
        found = await measure(part, builds, options.turns, options.requests)
        for name, values in found.items():
            beside = added(found, name, "none")
            rows.append({"part": part, "listener": name, "us": median(values), "more": beside})
        if options.before and part == "queries":
            more = added(found, "none", "before") / median(found["before"]) * 100
            bars.append(Bar("nobody listens, beside the build before", more, most=MOST_PERCENT, unit=" %"))
        bars.append(Bar(f"{part}: a listener that counts", added(found, "counts", "none"), most=MOST_US, unit=" us"))
    head = ("part, listener", "us a request", "more than none")
    print(
        table(head, ([f"{row['part']}, {row['listener']}", f"{row['us']:.1f}", f"{row['more']:.1f}"] for row in rows))
    )
    return finish("events", rows, bars, keep=options.keep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a revision of this repository")
    parser.add_argument("--turns", type=int, default=150)
    parser.add_argument("--requests", type=int, default=200, help="of each turn")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--keep", action="store_true", help="write results/")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

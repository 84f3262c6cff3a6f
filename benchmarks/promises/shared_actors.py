"""Four Ray actors on one key, 3,000,000 tokens a minute: what they use, what is refused, who gets how much.

    python -m benchmarks.shared_actors                                  some 15 minutes
    python -m benchmarks.shared_actors --seconds 60 --parts fixed       a part of it, and shorter

    sliding, fixed, bucket   embed_dataset with `coordinator=` in PostgreSQL, by minutes that are counted so; one actor
                             is killed, and Ray begins another one, which has the block of the dead one
    alone                    the same without a coordinator, by sliding minutes
    qps                      Ray's own HTTP stage, its requests a second divided by the number of actors

Real Ray, in a venv of its own, real sockets and real time; the judge is the service's own ledger. What comes before all
actors have worked for 20 s is not judged. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from benchmarks.beside.engines import processes_of
from benchmarks.beside.peers import VENVS
from benchmarks.beside.peers.environment import python
from benchmarks.promises.shared_limit import TOKENS_PER_MINUTE, WARM_UP, Counts, place_in
from benchmarks.results import Bar, finish
from tests.service.limits import RateLimits
from tests.service.own_process import ROOT
from tests.service.server import Latency, Server
from tests.service.windows import WindowKind
from tests.stage.postgres import Server as Postgres

ACTORS = 4
PARTS = ("sliding", "fixed", "bucket", "alone", "qps")
WINDOWS: tuple[WindowKind, ...] = ("sliding", "fixed", "bucket")
LONGEST_START = 180.0


@dataclass(frozen=True, slots=True)
class Sharing:
    """Shares are those of the actors that worked all the time, in the mean 1; none where actors are not told apart.
    So many seconds after an actor was killed the one in its place had its first texts."""

    used: float
    refused: float
    shares: Sequence[float]
    seconds: float

    def __str__(self) -> str:
        told = f"{self.used:.1%} used, {self.refused:.2%} refused"
        if not self.shares:
            return told
        shares = f"shares {min(self.shares):.2f} to {max(self.shares):.2f}"
        return f"{told}, {shares}, an actor in the place of a killed one after {self.seconds:.1f} s"


@asynccontextmanager
async def running(how: str, url: str, place: str) -> AsyncIterator[Process]:
    """Ray with its actors; ended with all that it has started."""
    interpreter = await asyncio.to_thread(python, "engines", VENVS["engines"])
    told = None if "AEMBED_BENCH_STDERR" in os.environ else DEVNULL
    process = await asyncio.create_subprocess_exec(
        *(str(interpreter), "-m", "benchmarks.beside.peers.actors", how, url, place),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=told,
        stderr=told,
    )
    try:
        yield process
    finally:
        for each in processes_of(process.pid):
            each.kill()
        await process.wait()


async def share(how: str, window: WindowKind, place: str, seconds: float) -> Sharing:
    limits = RateLimits.of(window, tokens_per_minute=TOKENS_PER_MINUTE)
    async with Server(limits=limits, latency=Latency(scale=1.0)) as server, running(how, server.url, place) as process:
        ledger = server.ledger
        for _ in range(int(LONGEST_START)):
            if len(ledger.tokens_by_project) == ACTORS or (how == "qps" and ledger.accepted > 100):
                break
            if process.returncode is not None:
                raise RuntimeError("Ray has ended; AEMBED_BENCH_STDERR=1 shows what it says")
            await asyncio.sleep(1.0)
        await asyncio.sleep(WARM_UP)
        before = Counts.of(ledger)
        await asyncio.sleep(seconds / 2)
        killed, replaced = "", inf
        if how != "qps":
            killed = min(ledger.tokens_by_project)
            os.kill(int(killed.rpartition("-")[2]), signal.SIGKILL)
        began = time.monotonic()
        while time.monotonic() < began + seconds / 2:
            await asyncio.sleep(0.1)
            if len(ledger.tokens_by_project) > ACTORS:
                replaced = min(replaced, time.monotonic() - began)
        after = Counts.of(ledger)
    requests, accepted = after.requests - before.requests, after.accepted - before.accepted
    used = sum(after.tokens[name] - before.tokens.get(name, 0) for name in after.tokens)
    parts = [after.tokens[name] - before.tokens[name] for name in before.tokens if name not in (killed, "")]
    shares = [len(parts) * part / sum(parts) for part in parts]
    refused = (requests - accepted) / max(1, requests)
    return Sharing(used / (TOKENS_PER_MINUTE * seconds / 60.0), refused, shares, replaced)


async def measure(parts: Sequence[str], seconds: float) -> list[Bar]:
    bars, postgres = list[Bar](), Postgres()
    try:
        for window in WINDOWS:
            if window in parts:
                found = await share("coordinator", window, place_in(postgres, f"actors_{window}"), seconds)
                print(f"{window}: {found}", flush=True)
                of = f"4 Ray actors, {window} minutes"
                bars += [
                    Bar(f"{of}: used", 100 * found.used, least=95.0, unit=" %"),
                    Bar(f"{of}: refused", 100 * found.refused, most=0.2, unit=" %"),
                    Bar(f"{of}: smallest share", min(found.shares), least=0.8),
                    Bar(f"{of}: largest share", max(found.shares), most=1.2),
                    Bar(f"{of}: a block begins again after", found.seconds, most=10.0, unit=" s"),
                ]
        for how in ("alone", "qps"):
            if how in parts:
                print(f"{how}: {await share(how, 'sliding', place_in(postgres, how), seconds)}", flush=True)
    finally:
        postgres.stop()
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    return finish("shared_actors", [], asyncio.run(measure(arguments.parts, arguments.seconds)), keep=False)


if __name__ == "__main__":
    sys.exit(main())

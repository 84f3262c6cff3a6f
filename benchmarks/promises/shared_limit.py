"""Eight real processes on one key, with one coordinator: what they use, what is refused, who gets how much, its cost.

    python -m benchmarks.shared_limit                                       about a quarter of an hour
    python -m benchmarks.shared_limit --seconds 60 --parts sliding budget   parts of it, and shorter

    sliding, fixed, bucket   3,000,000 tokens a minute, counted so; one worker comes late, one is killed
    alone                    the same workers without a coordinator, by sliding minutes
    away                     PostgreSQL is away for 30 s (or a fourth of the time) in mid-run
    budget                   dollars that are never passed, with CJK texts, one worker killed
    cost                     CPU of the leases of 8 workers, in this process and in the server's

Real sockets, real time and a real PostgreSQL; the judge is the service's own ledger. The first 20 s of a run, in which
the processes start, are not judged, as nobody's first minute is. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aembed import Budget, BudgetExceededError, Embedder
from aembed.core.pacing import Pacer
from aembed.dispatch import Coordination, SharedLimit
from aembed.dispatch._coordination import RENEW_SECONDS
from aembed.providers.fake import FakeProvider
from benchmarks.results import Bar, finish
from tests.service.ledger import Ledger
from tests.service.limits import RateLimits
from tests.service.server import Latency, Server
from tests.service.windows import WindowKind
from tests.stage.postgres import Server as Postgres
from tests.stage.proxy import Proxy

PROCESSES = 8
TOKENS_PER_MINUTE = 3_000_000
WARM_UP = 20.0
BUDGET_USD = 0.02
PARTS = ("sliding", "fixed", "bucket", "alone", "away", "budget", "cost")
ASKS = 500
"""Leases that are timed."""


async def texts(worker: str, words: str) -> AsyncIterator[str]:
    for number in itertools.count():
        yield f"text {number} of {worker} {words}"


async def work(url: str, worker: str, place: str | None, budget: float | None) -> None:
    budgets = None if budget is None else Budget(max_cost_usd=budget, per="day")
    words = "word " * 250 if budget is None else "東京の天気は晴れ、最高気温は二十度です。" * 10
    options = {} if place is None else {"coordinator": place}
    embedder = Embedder("openai:text-embedding-3-small", api_key="sk-shared", base_url=url, budget=budgets, **options)
    try:
        async with embedder, embedder.stream(texts(worker, words)) as results:
            async for _ in results:
                pass
    except BudgetExceededError:
        pass


@dataclass(frozen=True, slots=True)
class Counts:
    """What the ledger says at one moment."""

    requests: int
    accepted: int
    tokens: dict[str, int]

    @classmethod
    def of(cls, ledger: Ledger) -> Counts:
        return cls(ledger.requests, ledger.accepted, dict(ledger.tokens_by_project))


class Workers:
    """Processes that share a key, and with `place` a coordinator."""

    def __init__(self, url: str, place: str | None, budget: float | None = None) -> None:
        self._url, self._place, self._budget = url, place, budget
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    async def begin(self, worker: str) -> None:
        command = [sys.executable, "-m", "benchmarks.promises.shared_limit", "--url", self._url, "--worker", worker]
        command += [] if self._place is None else ["--place", self._place]
        command += [] if self._budget is None else ["--budget", str(self._budget)]
        environment = os.environ | {"OPENAI_PROJECT_ID": worker}
        self.processes[worker] = await asyncio.create_subprocess_exec(*command, env=environment)

    async def kill(self, *workers: str) -> None:
        for worker in workers or self.processes:
            if self.processes[worker].returncode is None:
                self.processes[worker].kill()
        await asyncio.gather(*[self.processes[worker].wait() for worker in workers or self.processes])


async def share(kind: WindowKind, place: str | None, seconds: float) -> tuple[float, float, float, float]:
    """Used, refused, and the smallest and largest share of those who work all the time; `place` None: alone."""
    limits = RateLimits.of(kind, tokens_per_minute=TOKENS_PER_MINUTE)
    async with Server(limits=limits, latency=Latency(scale=1.0)) as server:
        workers = Workers(server.url, place)
        try:
            for number in range(PROCESSES - 1):
                await workers.begin(f"worker-{number}")
            await asyncio.sleep(WARM_UP)
            before = Counts.of(server.ledger)
            await workers.begin("late")
            await asyncio.sleep(seconds / 2)
            middle = Counts.of(server.ledger)
            await workers.kill("worker-0")
            await asyncio.sleep(seconds / 2)
            after = Counts.of(server.ledger)
        finally:
            await workers.kill()
    requests, accepted = after.requests - before.requests, after.accepted - before.accepted
    used = sum(after.tokens[name] - before.tokens.get(name, 0) for name in after.tokens)
    # The late one has begun by the second half, and the killed one is gone.
    parts = [after.tokens[name] - middle.tokens[name] for name in after.tokens if name != "worker-0"]
    shares = [len(parts) * part / sum(parts) for part in parts]
    return (
        used / (TOKENS_PER_MINUTE * seconds / 60.0),
        (requests - accepted) / max(1, requests),
        min(shares),
        max(shares),
    )


async def be_away(postgres: Postgres, seconds: float) -> tuple[float, float]:
    """Used and refused, over a time in which PostgreSQL is away for 30 s in the middle."""
    absence = min(30.0, seconds / 4)
    limits = RateLimits.of("sliding", tokens_per_minute=TOKENS_PER_MINUTE)
    async with Server(limits=limits, latency=Latency(scale=1.0)) as server, Proxy(postgres.port) as proxy:
        parts = urlsplit(place_in(postgres, "away"))
        place = parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()
        workers = Workers(server.url, place)
        try:
            for number in range(PROCESSES):
                await workers.begin(f"worker-{number}")
            await asyncio.sleep(WARM_UP)
            before = Counts.of(server.ledger)
            await asyncio.sleep((seconds - absence) / 2)
            proxy.refuse()
            await proxy.drop_connections()
            await asyncio.sleep(absence)
            await proxy.listen()
            await asyncio.sleep((seconds - absence) / 2)
            after = Counts.of(server.ledger)
        finally:
            await workers.kill()
    requests, accepted = after.requests - before.requests, after.accepted - before.accepted
    used = sum(after.tokens[name] - before.tokens.get(name, 0) for name in after.tokens)
    return used / (TOKENS_PER_MINUTE * seconds / 60.0), (requests - accepted) / max(1, requests)


async def spend(place: str) -> tuple[float, float]:
    """What is on the bill in dollars, once all have stopped, one of them killed, and how many seconds that took."""
    began = time.monotonic()
    async with Server(latency=Latency(scale=1.0)) as server:
        workers = Workers(server.url, place, BUDGET_USD)
        try:
            for number in range(PROCESSES):
                await workers.begin(f"worker-{number}")
            for _ in range(1_000):
                if server.ledger.requests >= 3 * PROCESSES:
                    break
                await asyncio.sleep(0.05)
            await workers.kill("worker-0")
            await asyncio.gather(*[process.wait() for process in workers.processes.values()])
        finally:
            await workers.kill()
        return server.ledger.billed_tokens * 0.02 / 1_000_000, time.monotonic() - began


async def count_cpu(place: str, server: Postgres | None) -> float:
    """The share of a core that the leases of 8 workers take, here and in the server."""
    coordination = Coordination(place)
    provider = FakeProvider(dimensions=8)
    limits = [SharedLimit(coordination, provider, Pacer()) for _ in range(PROCESSES)]
    for limit in limits:
        await limit.wait_for_share()
    here, there, began = time.process_time(), cpu_of(server), time.monotonic()
    for number in range(ASKS):
        await limits[number % PROCESSES]._renew()
    seconds = time.process_time() - here + cpu_of(server) - there
    print(f"  a lease takes {1e3 * (time.monotonic() - began) / ASKS:.2f} ms, {1e3 * seconds / ASKS:.2f} ms of CPU")
    coordination.limits = limits
    await coordination.aclose()
    return seconds / ASKS * PROCESSES / RENEW_SECONDS


def cpu_of(server: Postgres | None) -> float:
    """CPU seconds of the server and what it has started."""
    if server is None:
        return 0.0
    leader = int((server.data / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stat = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if leader in (int(path.parent.name), int(stat[1])):
            ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def place_in(postgres: Postgres, name: str) -> str:
    return f"{postgres.url}?table=limits_{name}"


async def measure(parts: Sequence[str], seconds: float, folder: Path) -> list[Bar]:
    bars, postgres = list[Bar](), Postgres()
    kinds: tuple[WindowKind, ...] = ("sliding", "fixed", "bucket")
    try:
        for kind in kinds:
            if kind in parts:
                used, refused, least, most = await share(kind, place_in(postgres, kind), seconds)
                print(f"{kind}: {used:.1%} used, {refused:.2%} refused, shares {least:.2f} to {most:.2f}", flush=True)
                bars += [
                    Bar(f"{kind}: used", 100 * used, least=95.0, unit=" %"),
                    Bar(f"{kind}: refused", 100 * refused, most=0.2, unit=" %"),
                    Bar(f"{kind}: smallest share", least, least=0.8),
                    Bar(f"{kind}: largest share", most, most=1.2),
                ]
        if "alone" in parts:
            used, refused, least, most = await share("sliding", None, seconds)
            print(f"without: {used:.1%} used, {refused:.2%} refused, shares {least:.2f} to {most:.2f}", flush=True)
        if "away" in parts:
            used, refused = await be_away(postgres, seconds)
            print(f"away: {used:.1%} used, {refused:.2%} refused", flush=True)
            bars += [
                Bar("database away: used", 100 * used, least=95.0, unit=" %"),
                Bar("database away: refused", 100 * refused, most=0.2, unit=" %"),
            ]
        if "budget" in parts:
            for where in (place_in(postgres, "budget"), str(folder / f"budget-{os.getpid()}.db")):
                dollars, took = await spend(where)
                print(f"budget: {dollars:.5f} of {BUDGET_USD} dollars in {took:.0f} s", flush=True)
                bars += [
                    Bar("budget: spent", dollars / BUDGET_USD, most=1.0),
                    Bar("budget: used", dollars / BUDGET_USD, least=0.8),
                ]
        if "cost" in parts:
            for kind_of, where, server in (
                ("PostgreSQL", place_in(postgres, "cost"), postgres),
                ("SQLite", str(folder / f"cost-{os.getpid()}.db"), None),
            ):
                cpu = 100 * await count_cpu(where, server)
                bars.append(Bar(f"leases of 8 workers, {kind_of}: of a core", cpu, most=1.0, unit=" %"))
    finally:
        postgres.stop()
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="for SQLite files")
    for hidden in ("--url", "--worker", "--place"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        asyncio.run(work(arguments.url, arguments.worker, arguments.place, arguments.budget))
        return 0
    bars = asyncio.run(measure(arguments.parts, arguments.seconds, arguments.folder))
    return finish("shared_limit", [], bars, keep=False)


if __name__ == "__main__":
    sys.exit(main())

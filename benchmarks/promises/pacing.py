"""What the pacing makes of rate limits and outages, on virtual time: `python -m benchmarks.pacing`.

Every figure is the simulated service's own count (tests.service.windows decides, aembed's own Dispatcher sends).
Requests arrive up to 50 ms late and take 78 ms + 22 us a token. "bare" servers send no header, not even Retry-After.
Exits 1 if a bar is missed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.service.limits import RateLimits
from tests.service.windows import WindowKind
from tests.stage.clock import run_virtual
from tests.stage.simulation import LARGEST_BATCH_TOKENS, Client, Service

Unit = Literal["tokens", "requests"]
KINDS: tuple[WindowKind, ...] = ("fixed", "sliding", "bucket", "gcra")
UNITS: tuple[Unit, ...] = ("tokens", "requests")
LIMITS: Mapping[Unit, int] = {"tokens": 1_000_000, "requests": 600}
LARGEST: Mapping[Unit, int] = {"tokens": LARGEST_BATCH_TOKENS, "requests": 5_000}
SEEDS = range(4)


@dataclass(frozen=True, slots=True)
class Minute:
    used: float
    limit: float
    refused: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    used: float
    least_used: float
    refused: float
    most_refused: float
    more: str = ""
    kept: bool = True

    @property
    def is_met(self) -> bool:
        return self.kept and self.used >= self.least_used and self.refused <= self.most_refused

    def __str__(self) -> str:
        verdict = "ok    " if self.is_met else "MISSED"
        used = f"{self.used:6.1%} used (at least {self.least_used:.0%})"
        refused = f"{self.refused:6.2%} refused (at most {self.most_refused:.0%})"
        return f"{verdict} {self.name:64} {used}  {refused}  {self.more}"


@dataclass(frozen=True, slots=True)
class Case:
    """One job against one account."""

    kind: WindowKind
    unit: Unit = "tokens"
    limit: int = 0
    known: bool = False
    headers: bool = False
    retry_after: bool = False
    changes: tuple[tuple[int, float], ...] = ()

    def minutes(self, count: int, seed: int = 0) -> list[Minute]:
        return run_virtual(self._minutes, count, seed)

    async def _minutes(self, count: int, seed: int) -> list[Minute]:
        limit = self.limit or LIMITS[self.unit]
        start = 25.0 * seed % 60.0
        await asyncio.sleep(start)
        limits = RateLimits.of(self.kind, **{f"{self.unit}_per_minute": limit})
        service = Service(limits, Random(seed), headers=self.headers, retry_after=self.retry_after)
        tokens = limit if self.known and self.unit == "tokens" else None
        requests = limit if self.known and self.unit == "requests" else None
        client = Client(service, largest=LARGEST[self.unit], tokens_per_minute=tokens, requests_per_minute=requests)
        client.start()
        return [await self._minute(service, start + 60.0 * index, limit, index) for index in range(count)]

    async def _minute(self, service: Service, start: float, limit: int, index: int) -> Minute:
        window = service.limits.tokens if self.unit == "tokens" else service.limits.requests
        assert window is not None
        for at, factor in self.changes:
            if at == index:
                window.change(limit * factor, start)
        await asyncio.sleep(60.0)
        used = service.used_tokens if self.unit == "tokens" else service.used_requests
        seconds = range(int(start), int(start) + 60)
        return Minute(
            used=sum(used[second] for second in seconds),
            limit=window.limit,
            refused=sum(service.refused[second] for second in seconds),
            accepted=sum(service.used_requests[second] for second in seconds),
        )


def figures(minutes: Iterable[Minute]) -> tuple[float, float]:
    """The share of the quota used, and of the requests refused."""
    minutes = list(minutes)
    used = sum(minute.used for minute in minutes) / sum(minute.limit for minute in minutes)
    refused = sum(minute.refused for minute in minutes)
    return used, refused / (refused + sum(minute.accepted for minute in minutes))


def known() -> Iterator[Bar]:
    for unit in UNITS:
        for kind in KINDS:
            runs = [Case(kind, unit, known=True).minutes(8, seed) for seed in SEEDS]
            used, _ = figures(minute for run in runs for minute in run[1:])
            _, refused = figures(minute for run in runs for minute in run)
            yield Bar(f"limit known, bare, {kind}, {unit}", used, 0.96, refused, 0.0)


def learned() -> Iterator[Bar]:
    for unit in UNITS:
        for kind in KINDS:
            runs = [Case(kind, unit, headers=True).minutes(8, seed) for seed in SEEDS]
            used, _ = figures(minute for run in runs for minute in run[1:])
            _, refused = figures(minute for run in runs for minute in run)
            yield Bar(f"limit learned from headers, {kind}, {unit}", used, 0.95, refused, 0.01)


def bare() -> Iterator[Bar]:
    for unit in UNITS:
        for kind in KINDS:
            runs = [Case(kind, unit).minutes(8, seed) for seed in SEEDS]
            used, refused = figures(minute for run in runs for minute in run[2:])
            yield Bar(f"nothing known, bare, {kind}, {unit}, after two minutes", used, 0.9, refused, 0.02)


def quanta() -> Iterator[Bar]:
    for headers in (False, True):
        case = Case("second", limit=10_000_000, known=True, headers=headers)
        used, refused = figures(minute for seed in SEEDS for minute in case.minutes(8, seed)[2:])
        name = f"quanta of a second, 10M, {'headers' if headers else 'bare'}, after two minutes"
        yield Bar(name, used, 0.0, refused, 0.02)


def changed() -> Iterator[Bar]:
    """Halved after five minutes, back (or to twice as much, where nobody set a ceiling) after nine."""
    for kind in KINDS:
        for unit in UNITS:
            yield from _changed(Case(kind, unit, headers=True, changes=((5, 0.5), (9, 2.0))), 0.95, 0.01)
            yield from _changed(Case(kind, unit, known=True, headers=True, changes=((5, 0.5), (9, 1.0))), 0.95, 0.01)
            yield from _changed(Case(kind, unit, changes=((5, 0.5), (9, 1.0))), 0.9, 0.02)
            yield from _changed(Case(kind, unit, known=True, changes=((5, 0.5), (9, 1.0))), 0.9, 0.02)


def _changed(case: Case, least: float, most: float) -> Iterator[Bar]:
    runs = [case.minutes(14, seed) for seed in SEEDS]
    told = ("known, " if case.known else "") + ("headers" if case.headers else "bare")
    for name, minutes in (("halved", slice(7, 9)), ("doubled", slice(11, 14))):
        used, refused = figures(minute for run in runs for minute in run[minutes])
        yield Bar(f"limit {name}, {told}, {case.kind}, {case.unit}, two minutes later", used, least, refused, most)


def processes(count: int = 8, minutes: int = 10) -> Iterator[Bar]:
    for unit, limit, largest in (("tokens", 1_000_000, LARGEST_BATCH_TOKENS), ("requests", 3_000, 3_000)):
        service = Service(RateLimits.of("bucket", **{f"{unit}_per_minute": limit}), Random(1))
        run_virtual(_share, service, count, largest, 60.0 * minutes)
        used = sum((service.used_tokens if unit == "tokens" else service.used_requests).values()) / (limit * minutes)
        refused, accepted = sum(service.refused.values()), sum(service.used_requests.values())
        shares = [tokens * count / sum(service.by_client.values()) for tokens in service.by_client.values()]
        fair = len(shares) == count and min(shares) >= 0.5 and max(shares) <= 2.0
        more = f"shares {min(shares):.2f} to {max(shares):.2f} of the fair one (0.5 to 2)"
        name = f"{count} processes, bucket, {unit}, from the first second"
        yield Bar(name, used, 0.9, refused / (refused + accepted), 0.03, more, fair)


async def _share(service: Service, clients: int, largest: int, seconds: float) -> None:
    for index in range(clients):
        Client(service, name=str(index), largest=largest).start(service.random.uniform(0.0, 3.0))
    await asyncio.sleep(seconds)


def outages() -> Iterator[str]:
    for seed in SEEDS:
        service = Service(random=Random(seed), headers=False, fault=lambda now: 20.0 <= now < 80.0)
        client = run_virtual(done, service, 12_000, 64)
        wasted, healthy = sum(service.faults.values()), sum(client.done[second] for second in range(10, 20)) / 10
        seconds = next(second for second in range(80, 1_000) if client.done[second] >= 0.9 * healthy) - 80
        met = wasted <= 104 and client.failed == 0 and seconds <= 10
        yield (
            f"{_verdict(met)} outage of 60 s, 64 in flight, seed {seed}: {wasted} requests wasted (at most 104), "
            f"{client.failed} failed (0), full speed after {seconds} s (at most 10)"
        )


def random_failures() -> Iterator[str]:
    for concurrency in (8, 64):
        healthy, _ = _seconds(concurrency, 0.0)
        seconds, client = _seconds(concurrency, 0.3)
        goodput = healthy / seconds
        closings = client.dispatcher._requests.admission.gate.closings
        met = goodput >= 0.6 and client.failed == 0 and closings <= 3
        yield (
            f"{_verdict(met)} 30 % random 5xx, {concurrency} in flight: goodput {goodput:.2f} of the healthy rate "
            f"(at least 0.6), {client.failed} failed (0), {closings} closings in 12,000 (at most 3)"
        )


def _seconds(concurrency: int, failures: float) -> tuple[float, Client]:
    """Until 95 % were done: the last ones have nobody beside them."""
    random = Random(0)
    service = Service(random=random, headers=False, fault=lambda now: random.random() < failures)
    client = run_virtual(done, service, 12_000, concurrency)
    return _second_of(11_400, client.done), client


async def done(service: Service, batches: int, concurrency: int) -> Client:
    """A client that has sent all of its batches."""
    client = Client(service, concurrency=concurrency, largest=6_000, batches=batches)
    await asyncio.gather(*client.start())
    return client


def _second_of(wanted: int, done: Mapping[int, int]) -> float:
    total = 0
    for second in sorted(done):
        total += done[second]
        if total >= wanted:
            return second + 1.0
    raise AssertionError(f"only {total} of {wanted} were done")


def _verdict(met: bool) -> str:
    return "ok    " if met else "MISSED"


def main() -> int:
    missed = 0
    for part in (known, learned, bare, quanta, changed, processes, outages, random_failures):
        for line in part():
            print(line, flush=True)
            missed += str(line).startswith("MISSED")
    print(f"{missed} bars missed" if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

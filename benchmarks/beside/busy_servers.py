"""Servers that take so many requests at a time, or refuse by chance, for benchmarks.beside.busy; on virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

from aembed.errors import ProviderError, RateLimitError
from aembed.types import Hints
from tests.stage.simulation import REFUSAL_SECONDS, Service, now

Level = Callable[[float], float]
"""Of the seconds since the job began."""


def always(level: float) -> Level:
    return lambda seconds: level


@dataclass(frozen=True, slots=True)
class Server:
    """`takes` requests at a time, of which strangers take some; refuses `chance` of the others, or all for a while."""

    name: str
    takes: Level = field(default_factory=lambda: always(math.inf))
    chance: float = 0.0
    every: int = 0
    mean_seconds: float = 0.1
    sigma: float = 0.0
    retry_after: float | None = None
    two_second_headers: bool = False
    changes: int = 0
    away_for: float = 0.0

    @property
    def by_chance(self) -> bool:
        return bool(self.chance or self.every)

    def seconds(self, number: int, seed: int) -> float:
        """Of the reply of that number: whoever is served, the replies take as long."""
        drawn = Random(seed * 1_000_003 + number).gauss(0.0, self.sigma) if self.sigma else 0.0
        return self.mean_seconds * math.exp(drawn)


class BusyService(Service):
    """Judges each request when it arrives; `accepted` and `refusals` are its own count."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(random=Random(seed), jitter=0.004)
        self.server, self.seed = server, seed
        self.began = now()
        self.accepted = self.refusals = self.most_processing = 0
        self._processing = 0
        self._arrived = 0

    def judge(self, tokens: int, inputs: int, client: str) -> tuple[ProviderError | None, float]:
        server, random = self.server, self.random
        self._arrived += 1
        by_chance = random.random() < server.chance or (server.every and self._arrived % server.every == 0)
        if by_chance or self._processing >= server.takes(now() - self.began):
            self.refusals += 1
            return RateLimitError(
                "429: busy", status_code=429, hints=Hints(retry_after=server.retry_after)
            ), REFUSAL_SECONDS
        self.accepted += 1
        self._processing += 1
        self.most_processing = max(self.most_processing, self._processing)
        return None, server.seconds(self.accepted, self.seed)

    def answered(self, error: ProviderError | None) -> None:
        if error is None:
            self._processing -= 1

    def _hints(self, now: float, wait: float | None) -> Hints:
        if not self.server.two_second_headers:
            return Hints()
        return Hints(limit_tokens=3_000, remaining_tokens=2_910, reset_tokens=2.0, window_tokens=2.0)


def switched(before: float, after: float, at: float) -> Level:
    return lambda seconds: before if seconds < at else after


def cases() -> Iterator[tuple[Server, int]]:
    for sigma, mean in ((0.0, 0.1), (0.5, 0.3)):
        for hint in (None, 1.0, 6.0):
            of = f"{'lognormal ' if sigma else ''}{mean} s, {'no hint' if hint is None else f'hint {hint:g} s'}"
            base = Server("", mean_seconds=mean, sigma=sigma, retry_after=hint)
            for takes in (1, 2, 4, 7, 16):
                for batches in (60, 600):
                    yield replace(base, name=f"{takes} at a time, {of}", takes=always(takes)), batches
            for before, after in ((7, 3), (3, 7), (16, 2), (2, 16), (7, 1)):
                for batches in (60, 600):
                    at = batches / 2 / before * mean
                    yield (
                        replace(
                            base,
                            name=f"{before} then {after} at a time, {of}",
                            takes=switched(before, after, at),
                            changes=1,
                        ),
                        batches,
                    )
            for batches in (60, 600):
                period = batches / 4 / 5 * mean
                takes_ = lambda seconds, period=period: 7 if int(seconds / period) % 2 == 0 else 3  # noqa: E731
                yield (
                    replace(
                        base, name=f"7 at a time, strangers take 4 half of the time, {of}", takes=takes_, changes=4
                    ),
                    batches,
                )
                yield (
                    replace(
                        base,
                        name=f"4 at a time, headers of two seconds, {of}",
                        takes=always(4),
                        two_second_headers=True,
                    ),
                    batches,
                )
            for seconds in (1, 3, 10, 30):
                for batches in (60, 600):
                    takes_ = switched(0, math.inf, seconds)
                    yield (
                        replace(base, name=f"refuses all for {seconds} s, {of}", takes=takes_, away_for=seconds),
                        batches,
                    )
            for every in (10, 20, 50):
                for batches in (60, 600):
                    yield replace(base, name=f"every {every}th refused, {of}", every=every), batches
                    yield replace(base, name=f"1 of {every} refused by chance, {of}", chance=1 / every), batches

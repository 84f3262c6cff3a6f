"""The real Dispatcher against a service that is judged by its windows, on virtual time: no sockets, no JSON.

    async def job():
        service = Service(RateLimits.of("fixed", tokens_per_minute=1_000_000))
        client = Client(service)
        client.start()
        await asyncio.sleep(60.0)

    run_virtual(job)

A request is judged a moment after it left, is answered after as long as its tokens take, and counts as in flight in
between. The text of an item is the number of its tokens.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random

import numpy as np

from aembed.core.changes import Entry, Item
from aembed.core.pacing import Pacer
from aembed.dispatch import Answer, Answered, Dispatcher, Submission
from aembed.errors import ProviderError, RateLimitError, UnavailableError
from aembed.limits import Limits, RetryPolicy
from aembed.types import Hints, InputType, Record, Reply, Space
from tests.service.limits import RateLimits

JITTER = 0.05
"""Seconds by which a request may arrive late."""
FIXED_SECONDS, SECONDS_PER_TOKEN = 0.078, 22e-6
REFUSAL_SECONDS = 0.02
LARGEST_BATCH_TOKENS = 290_000
PARTS = 40
"""Items of a batch, so that it can be split."""

Seconds = Callable[[int], float]


def as_recorded(tokens: int) -> float:
    """How long OpenAI took for so many tokens."""
    return FIXED_SECONDS + SECONDS_PER_TOKEN * tokens


@dataclass(eq=False)
class Service:
    """Admits by its windows; `fault` is asked first. `used` and `refused` are its own count, by the second."""

    limits: RateLimits = field(default_factory=RateLimits)
    random: Random = field(default_factory=lambda: Random(0))
    headers: bool = True
    retry_after: bool = True
    seconds: Seconds = as_recorded
    jitter: float = JITTER
    fault: Callable[[float], bool] = lambda now: False
    used_tokens: Counter[int] = field(default_factory=Counter)
    used_requests: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    faults: Counter[int] = field(default_factory=Counter)
    by_client: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    async def call(self, tokens: int, inputs: int, client: str = "") -> Hints | None:
        """The headers of the reply. Raises what a status other than 200 means."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.random.uniform(0.0, self.jitter))
            error, seconds = self.judge(tokens, inputs, client)
            await asyncio.sleep(seconds)
            self.answered(error)
        finally:
            self.in_flight -= 1
        if error:
            raise error
        return self._hints(now(), None)

    def judge(self, tokens: int, inputs: int, client: str) -> tuple[ProviderError | None, float]:
        """What comes of a request, and the seconds until its answer."""
        second = int(now())
        if self.fault(now()):
            self.faults[second] += 1
            return UnavailableError("503: busy", status_code=503), REFUSAL_SECONDS
        excess = self.limits.admit(tokens, now())
        if excess is not None:
            self.refused[second] += 1
            hints = self._hints(now(), excess.wait)
            return RateLimitError("429: too early", status_code=429, hints=hints), REFUSAL_SECONDS
        self.used_tokens[second] += tokens
        self.used_requests[second] += 1
        self.by_client[client] += tokens
        return None, self.seconds(tokens)

    def answered(self, error: ProviderError | None) -> None:
        """That answer begins to go out."""

    def _hints(self, now: float, wait: float | None) -> Hints:
        retry_after = wait if self.retry_after else None
        if not self.headers:
            return Hints(retry_after=retry_after)
        requests, tokens = self.limits.requests, self.limits.tokens
        return Hints(
            retry_after=retry_after,
            limit_requests=int(requests.limit) if requests else None,
            remaining_requests=int(requests.remaining(now)) if requests else None,
            reset_requests=round(requests.reset(now), 3) if requests else None,
            limit_tokens=int(tokens.limit) if tokens else None,
            remaining_tokens=int(tokens.remaining(now)) if tokens else None,
            reset_tokens=round(tokens.reset(now), 3) if tokens else None,
        )


class Endpoint:
    """The Provider through which one client reaches a service."""

    def __init__(self, service: Service, client: str, largest: int) -> None:
        self.service, self.client = service, client
        self.space = Space("simulated", "model", 1)
        self.limits = Limits(max_batch_size=2_048, max_tokens_per_batch=largest, max_tokens_per_text=largest)
        self.price_usd = 0.0

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        hints = await self.service.call(sum(map(int, texts)), len(texts), self.client)
        return Reply(np.ones((len(texts), 1), np.float32), hints=hints or Hints(), checked=True)

    async def aclose(self) -> None:
        pass


class Client:
    """One Embedder's Dispatcher, kept busy. `largest` is the most tokens that its texts fill a batch with.

    `in_hand` batches a slot are open at a time; without `batches` there is no end to them.
    """

    def __init__(
        self,
        service: Service,
        *,
        concurrency: int = 8,
        tokens_per_minute: float | None = None,
        requests_per_minute: float | None = None,
        largest: int = LARGEST_BATCH_TOKENS,
        inputs: int = PARTS,
        batches: int | None = None,
        in_hand: int = 1,
        name: str = "",
    ) -> None:
        self.service, self.name = service, name
        self.pacer = Pacer(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrency=concurrency
        )
        endpoint = Endpoint(service, name, largest)
        self.dispatcher = Dispatcher(
            endpoint,
            lambda: endpoint.limits,
            concurrency=concurrency,
            retry=RetryPolicy(),
            timeout=60.0,
            dimensions=1,
            pacer=self.pacer,
            random=service.random,
        )
        self.submission = Submission(shares=False, remaining=lambda: inf if self._batches is None else self._batches)
        self.done = Counter[int]()
        self.failed = 0
        self._inputs, self._batches = inputs, batches
        self._workers = concurrency * in_hand

    def start(self, after: float = 0.0) -> list[asyncio.Task[None]]:
        return [asyncio.get_running_loop().create_task(self._work(after)) for _ in range(self._workers)]

    async def _work(self, after: float) -> None:
        await asyncio.sleep(after)
        while self._batches is None or self._batches > 0:
            self._batches = None if self._batches is None else self._batches - 1
            await self.dispatcher.send(self._next_batch(), self.submission, self._deliver)

    def _next_batch(self) -> list[Item]:
        """As many tokens as the cap allows, or a little less, in even parts."""
        inputs = min(self._inputs, self.dispatcher.cap.inputs)
        tokens = max(int(self.dispatcher.cap.tokens * self.service.random.uniform(0.9, 1.0)), inputs)
        sizes = [tokens // inputs + (number < tokens % inputs) for number in range(inputs)]
        return [Item(Entry(0, Record("", ""), 0, ""), (str(size),), size) for size in sizes]

    async def _deliver(self, answer: Answer) -> None:
        if isinstance(answer, Answered):
            self.done[int(now())] += 1
        else:
            self.failed += len(answer.items)


def now() -> float:
    return asyncio.get_running_loop().time()

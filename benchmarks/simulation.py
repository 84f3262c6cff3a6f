"""Clients and a provider on virtual time: the pacing of aembed.core against the windows of a judge, in one heap.

A process is a generator: it yields the seconds that it sleeps, or the Event that it waits for. `Client` does what
aembed.dispatch does around one request, with a counter of tokens in the place of texts.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, TypeAlias

from aembed.core.gate import Gate, pause
from aembed.core.pacing import Pacer
from aembed.types import Hints
from benchmarks.limits import RateLimits

JITTER = 0.05
FIXED_SECONDS, SECONDS_PER_TOKEN = 0.078, 22e-6
REFUSAL_SECONDS = 0.02
LARGEST_BATCH_TOKENS = 290_000
BACKOFF_BASE, BACKOFF_MAX, MAX_RETRIES = 1.0, 60.0, 3


@dataclass(eq=False)
class Event:
    """Wakes all that wait for it."""

    waiting: list[tuple[Process, int]] = field(default_factory=list)


Process: TypeAlias = Generator[Any, None, Any]


class Simulation:
    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self._heap: list[tuple[float, int, Process, int]] = []
        self._order = count()
        self._turns: dict[int, int] = {}

    def start(self, process: Process, after: float = 0.0) -> None:
        self._turns[id(process)] = 0
        self._push(process, after)

    def run(self, until: float = float("inf")) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, process, turn = heapq.heappop(self._heap)
            if self._turns.get(id(process)) == turn:
                self._step(process)

    def wake(self, event: Event) -> None:
        waiting, event.waiting = event.waiting, []
        for process, turn in waiting:
            if self._turns.get(id(process)) == turn:
                self._push(process, 0.0)

    def _push(self, process: Process, after: float) -> None:
        heapq.heappush(self._heap, (self.now + after, next(self._order), process, self._turns[id(process)]))

    def _step(self, process: Process) -> None:
        self._turns[id(process)] += 1
        try:
            wanted = next(process)
        except StopIteration:
            del self._turns[id(process)]
            return
        match wanted:
            case Event():
                wanted.waiting.append((process, self._turns[id(process)]))
            case (Event() as event, seconds):
                event.waiting.append((process, self._turns[id(process)]))
                self._push(process, max(seconds, 0.0))
            case seconds:
                self._push(process, max(seconds, 0.0))


@dataclass
class Reply:
    status: int
    hints: Hints | None = None


@dataclass
class Server:
    """Admits by its windows; `fault` is asked first. `used` and `refused` are its own count, by the second."""

    simulation: Simulation
    limits: RateLimits
    headers: bool = True
    retry_after: bool = True
    fault: Callable[[float], bool] = lambda now: False
    used_tokens: Counter[int] = field(default_factory=Counter)
    used_requests: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    faults: Counter[int] = field(default_factory=Counter)
    by_client: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    def call(self, tokens: int, client: str = "") -> Generator[Any, None, Reply]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        yield self.simulation.random.uniform(0.0, JITTER)
        reply, seconds = self._judge(tokens, client)
        yield seconds
        self.in_flight -= 1
        return reply

    def _judge(self, tokens: int, client: str) -> tuple[Reply, float]:
        now = self.simulation.now
        second = int(now)
        if self.fault(now):
            self.faults[second] += 1
            return Reply(503), REFUSAL_SECONDS
        excess = self.limits.admit(tokens, now)
        if excess is not None:
            self.refused[second] += 1
            return Reply(429, self._hints(now, excess.wait)), REFUSAL_SECONDS
        self.used_tokens[second] += tokens
        self.used_requests[second] += 1
        self.by_client[client] += tokens
        return Reply(200, self._hints(now, None)), FIXED_SECONDS + SECONDS_PER_TOKEN * tokens

    def _hints(self, now: float, wait: float | None) -> Hints | None:
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


class Client:
    """One Embedder: slots, one lane, pacer, gate. `largest` is the most tokens that its texts fill a batch with.

    A request that waits to be tried again holds no slot; `in_hand` batches a slot are open at a time.
    """

    def __init__(
        self,
        simulation: Simulation,
        server: Server,
        *,
        concurrency: int = 8,
        tokens_per_minute: float | None = None,
        requests_per_minute: float | None = None,
        largest: int = LARGEST_BATCH_TOKENS,
        batches: int | None = None,
        in_hand: int = 1,
        name: str = "",
    ) -> None:
        self.simulation, self.server, self.name = simulation, server, name
        self.pacer = Pacer(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrency=concurrency
        )
        self.gate = Gate()
        self.done, self.failed, self.retries = Counter[int](), 0, 0
        self._workers, self._largest, self._batches = concurrency * in_hand, largest, batches
        self._in_flight = 0
        self._slot_free = Event()
        self._lane: deque[Event] = deque()
        self._lane_taken = False
        self._gate_moved = Event()

    def start(self, after: float = 0.0) -> None:
        for _ in range(self._workers):
            self.simulation.start(self._work(), after)

    def _work(self) -> Process:
        while self._batches is None or self._batches > 0:
            self._batches = None if self._batches is None else self._batches - 1
            yield from self._finish([self._next_batch()])

    def _next_batch(self) -> int:
        most = min(self.pacer.max_batch_tokens or self._largest, self._largest)
        return max(int(most * self.simulation.random.uniform(0.9, 1.0)), 1)

    def _finish(self, parts: list[int]) -> Process:
        while parts:
            tokens = parts.pop()
            split = yield from self._send(tokens)
            if split:
                parts += [tokens // 2, tokens - tokens // 2]

    def _send(self, tokens: int) -> Generator[Any, None, bool]:
        attempts, failures = 0, 0.0
        while True:
            yield from self._enter_lane()
            if self.pacer.too_large(tokens):
                self._leave_lane()
                return True
            while self._in_flight >= self.pacer.concurrency:
                yield self._slot_free
            self._in_flight += 1
            reservation = yield from self._reserve(tokens)
            passage = self.gate.enter(self.simulation.now)
            self._leave_lane()
            reply = yield from self.server.call(tokens, self.name)
            now = self.simulation.now
            self._in_flight -= 1
            self.simulation.wake(self._slot_free)
            attempts += 1
            retry_after = reply.hints.retry_after if reply.hints else None
            wait = pause(min(BACKOFF_MAX, BACKOFF_BASE * 2.0 ** (attempts - 1)), retry_after, self.simulation.random)
            split = False
            if reply.status == 200:
                self.pacer.accepted(reservation, reply.hints, now)
                self.gate.succeeded(passage, now)
                self.simulation.wake(self._gate_moved)
                self.done[int(now)] += 1
                return False
            self.retries += 1
            limited = reply.status == 429
            if limited:
                split = self.pacer.throttled(reservation, reply.hints, now)
            failures += self.gate.failed(passage, now, wait=wait, rate_limited=limited, hinted=retry_after is not None)
            self.simulation.wake(self._gate_moved)
            if split:
                return True
            if failures > MAX_RETRIES:
                self.failed += 1
                return False
            yield self.gate.rest(wait, hinted=retry_after is not None)

    def _reserve(self, tokens: int) -> Generator[Any, None, Any]:
        while True:
            while not self.gate.may_pass(self.simulation.now):
                yield (self._gate_moved, self.gate.opens_at - self.simulation.now)
            reservation = self.pacer.reserve(tokens, self.simulation.now)
            while reservation.start > self.simulation.now:
                yield reservation.start - self.simulation.now
            if self.gate.may_pass(self.simulation.now):
                return reservation
            self.pacer.give_back(reservation, self.simulation.now)

    def _enter_lane(self) -> Process:
        if self._lane_taken:
            turn = Event()
            self._lane.append(turn)
            yield turn
        self._lane_taken = True

    def _leave_lane(self) -> None:
        if self._lane:
            self.simulation.wake(self._lane.popleft())
        else:
            self._lane_taken = False

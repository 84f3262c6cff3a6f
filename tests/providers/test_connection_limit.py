"""A server that serves fewer connections than we open (row E4)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from time import monotonic
from typing import Any

import pytest

from aembed import RetryPolicy
from aembed.providers._http import HTTP
from aembed.providers._http._connection_limit import SECONDS_UNTIL_MORE, Caller, ConnectionLimit
from tests.hostile.jobs import at, embed, numbers
from tests.providers.few_threads import FewThreads
from tests.providers.raw_server import reply, serving

QUICK = RetryPolicy(max_retries=0)
BATCH = 10


async def job(server: FewThreads, embedder: Any, texts: int, start: int = 0) -> float:
    started = monotonic()
    outcome = await embed(embedder, numbers(texts, start=start))
    assert (outcome.error, outcome.report.stored) == (None, texts)
    return monotonic() - started


async def seconds_of(threads: int, texts: int = 800, **options: Any) -> float:
    with FewThreads(threads, seconds=0.02, **options) as server:
        async with at(server, concurrency=32, max_batch_size=BATCH, retry=QUICK) as embedder:
            seconds = await job(server, embedder, texts)
        assert (server.ledger.texts_again, server.ledger.requests) == (0, texts // BATCH)
    return seconds


async def is_as_fast(threads: int, **options: Any) -> bool:
    """As one of 64 threads. A machine that has something else to do meanwhile has another try."""
    for _ in range(3):
        if await seconds_of(threads, **options) < 1.3 * await seconds_of(64):
            return True
    return False


@pytest.mark.parametrize("threads", [1, 4, 16])
async def test_e4_a_job_takes_no_longer_where_few_connections_are_served_and_buys_nothing_twice(threads: int) -> None:
    assert await is_as_fast(threads)


async def test_e4_nor_where_the_server_does_not_say_how_long_it_keeps_connections() -> None:
    assert await is_as_fast(4, headers=False)


async def test_e4_how_many_are_served_is_known_to_the_next_job() -> None:
    with FewThreads(4, seconds=0.01) as server:
        async with at(server, concurrency=32, max_batch_size=BATCH, retry=QUICK) as embedder:
            await job(server, embedder, 400)
            before = server.connections
            await job(server, embedder, 400, start=1_000)
            await asyncio.gather(*(embedder.embed_query(f"question {n}") for n in range(100)))
            assert server.connections <= before + 4
        assert server.ledger.texts_again == 0


async def connections_of_four_jobs(threads: int) -> int:
    with FewThreads(threads, seconds=0.002) as server:
        async with at(server, concurrency=32, max_batch_size=BATCH, retry=QUICK) as embedder:
            for start in range(0, 4_000, 1_000):
                await job(server, embedder, 1_000, start=start)
        return server.connections


async def test_e4_a_server_that_serves_all_is_not_held_back() -> None:
    """No connection is closed to make room for another one, but where the machine stood still for so long that one
    seems to wait: so the best of three."""
    assert min([await connections_of_four_jobs(64) for _ in range(3)]) <= 32


@pytest.mark.parametrize(
    ("said", "connections"),
    [
        ("timeout=1", 2),
        ("timeout=5, max=100", 1),
        ("max=0", 4),
        ("timeout=0", 4),
        ("max=1", 2),
        ("MAX = 1 ; x=y", 2),
        ("timeout=soon, max=", 1),
        ("", 1),
    ],
)
async def test_e4_what_a_server_says_of_its_connections_holds(said: str, connections: int) -> None:
    """Four requests; before the third there is a rest of 0.6 s."""
    async with serving(reply(b"fine", headers={"Keep-Alive": said})) as server:
        made = HTTP(concurrency=1)
        for rest in (0, 0, 0.6, 0):
            await asyncio.sleep(rest)
            await made.post(server.url, {}, b"{}", most_bytes=1_000)
        await made.aclose()
        assert server.connections == connections


# what is learned of a server, without one


class Simulated:
    """A server of so many places, each taken by one connection until that is closed, and a client that always has work.

    One request after another is answered, each after `seconds`. Time passes by hand.
    """

    def __init__(self, places: int, concurrency: int = 32, seconds: float = 0.01) -> None:
        self.served, self.now, self.closed = ConnectionLimit(), 0.0, 0
        self.places, self._concurrency, self._seconds = places, concurrency, seconds
        self.inside: deque[Caller] = deque()
        self._outside: deque[Caller] = deque()
        self._open()

    def run(self, replies: int, pause: float = 0.0) -> ConnectionLimit:
        for _ in range(replies):
            self.now += self._seconds
            caller = self.inside.popleft()
            self.served.note_answered(caller, self.now)
            self.now += pause
            if self.served.has_to_give_way(self.now):
                self.served.note_closed(caller)
                self.closed += 1
            else:
                self.served.note_asked(caller, 100, self.now)
                self.inside.append(caller)
            self._open()
        return self.served

    def _open(self) -> None:
        while len(self.inside) + len(self._outside) < self._concurrency and self.served.may_open(self.now):
            caller = self.served.note_opened()
            self.served.note_asked(caller, 100, self.now)
            self._outside.append(caller)
        while self._outside and len(self.inside) < self.places:
            self.inside.append(self._outside.popleft())


@pytest.mark.parametrize("places", [1, 2, 4, 8, 16])
def test_e4_the_number_of_places_is_learned_and_then_all_are_used(places: int) -> None:
    simulated = Simulated(places)
    assert simulated.run(300).places == places
    assert len(simulated.inside) == places
    closed = simulated.closed
    simulated.run(1_000)
    assert simulated.closed <= closed + 2


@pytest.mark.parametrize("places", [32, 64])
def test_e4_where_all_are_served_nothing_is_learned_and_nothing_closed(places: int) -> None:
    simulated = Simulated(places)
    assert simulated.run(1_000).places is None
    assert simulated.closed == 0


def test_e4_one_place_more_is_tried_from_time_to_time_and_less_often_where_there_is_none() -> None:
    simulated = Simulated(4, seconds=0.1)
    simulated.run(300)
    closed, since = simulated.closed, simulated.now
    while simulated.now < since + 4 * 3_600:
        simulated.run(100, pause=0.4)
    assert simulated.served.places in (4, 5)
    assert 6 <= simulated.closed - closed <= 60


def test_e4_a_server_that_has_grown_is_used_again() -> None:
    simulated = Simulated(2)
    simulated.run(300)
    simulated.places = 8
    while simulated.now < 20 * SECONDS_UNTIL_MORE:
        simulated.run(100)
    assert simulated.served.places is not None
    assert simulated.served.places >= 8


SLOW_AT_TIMES: dict[str, Callable[[Random], float]] = {
    "lognormal": lambda random: random.lognormvariate(-1.2, 1.0),
    "exponential": lambda random: random.expovariate(3.0),
    "one in five": lambda random: 1.0 if random.random() < 0.2 else 0.05,
}


@pytest.mark.parametrize("replies", SLOW_AT_TIMES)
def test_e4_a_server_that_is_slow_at_times_is_not_taken_for_one_of_few_places(replies: str) -> None:
    held_back = 0
    for seed in range(20):
        random, served, now = Random(seed), ConnectionLimit(), 0.0
        due: list[tuple[float, int, Caller]] = []
        for number in range(2_000):
            while len(due) < 32 and served.may_open(now):
                caller = served.note_opened()
                served.note_asked(caller, 100, now)
                heappush(due, (now + SLOW_AT_TIMES[replies](random), 32 * number + len(due), caller))
            now, _, caller = heappop(due)
            served.note_answered(caller, now)
            if served.has_to_give_way(now):
                served.note_closed(caller)
            else:
                served.note_asked(caller, 100, now)
                heappush(due, (now + SLOW_AT_TIMES[replies](random), -number, caller))
            held_back += len(due) < 24
    assert held_back < 0.02 * 20 * 2_000


def test_e4_a_request_ten_times_as_large_may_take_ten_times_as_long() -> None:
    served = ConnectionLimit()
    small, large = served.note_opened(), served.note_opened()
    served.note_asked(small, 100, 0.0)
    served.note_asked(large, 1_000, 0.0)
    closes = []
    for tenth in range(1, 24):
        served.note_answered(small, tenth / 10)
        closes.append(served.has_to_give_way(tenth / 10))
        served.note_asked(small, 100, tenth / 10)
    assert closes.index(True) == 20
    assert served.places is None


def test_e4_one_that_hangs_is_given_room_less_and_less_often() -> None:
    served = ConnectionLimit()
    others, hung = [served.note_opened() for _ in range(3)], served.note_opened()
    served.note_asked(hung, 100, 0.0)
    closed = 0
    for tenth in range(1, 600):
        other = others[tenth % 3]
        served.note_asked(other, 100, (tenth - 1) / 10)
        served.note_answered(other, tenth / 10)
        closed += served.has_to_give_way(tenth / 10)
    assert 4 <= closed <= 12
    assert served.places is None

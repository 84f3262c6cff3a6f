"""A network that fails at any byte (rows N1 to N9, E8), over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from aembed import OutageError, RetryPolicy
from tests.hostile.jobs import QUICK, At, at, embed, numbers, serving, until
from tests.service.faults import Cut, Drip, Faults, Flood, Hang, Plan, Status, Truncate
from tests.service.server import Latency, Server
from tests.stage.proxy import Proxy


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def test_n1_a_job_that_starts_before_the_server_waits_for_it() -> None:
    server = Server(port=free_port())
    async with at(server, max_batch_size=20) as embedder:
        job = asyncio.create_task(embed(embedder, numbers(200)))
        await until(lambda: "1 failures" in repr(embedder))
        async with server:
            outcome = await job
    assert (outcome.error, outcome.report.stored) == (None, 200)
    assert server.ledger.texts_again == 0
    assert outcome.report.retries >= 1


async def test_n1_a_server_that_never_comes_ends_the_job_resumably() -> None:
    server = Server(port=free_port())
    async with at(server, retry=RetryPolicy(backoff_base=0.02, backoff_max=0.1, max_outage=0.5)) as embedder:
        outcome = await embed(embedder, numbers(20))
    assert isinstance(outcome.error, OutageError)
    assert "no connection to 127.0.0.1" in str(outcome.error)
    assert outcome.report.pending == 20


async def test_n1_a_server_that_goes_and_comes_back_in_mid_job() -> None:
    async with serving(latency=Latency(fixed=0.02, scale=1.0)) as server, Proxy(server.port) as proxy:  # noqa: SIM117
        async with at(proxy, max_batch_size=10) as embedder:
            job = asyncio.create_task(embed(embedder, numbers(1_000)))
            await until(lambda: server.ledger.accepted >= 20)
            proxy.refuse()
            await proxy.drop_connections()
            await until(lambda: "Gate closed" in repr(embedder))
            await proxy.listen()
            outcome = await job
    assert (outcome.error, outcome.report.stored) == (None, 1_000)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_n2_a_connection_that_ends_after_each_reply_costs_no_retry(reset: bool) -> None:
    async with serving(Plan(*[Cut(after_bytes=None, reset=reset)] * 20)) as server:  # noqa: SIM117
        async with at(server, concurrency=1, max_batch_size=10, retry=RetryPolicy(max_retries=0)) as embedder:
            outcome = await embed(embedder, numbers(200))
            assert (outcome.error, outcome.report.stored, outcome.report.retries) == (None, 200, 0)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("after", [0, 1, 16, 150, 600, 3_000])
async def test_n3_a_reply_cut_at_any_byte_is_asked_for_again(after: int, reset: bool) -> None:
    async with serving() as server, Proxy(server.port) as proxy:
        proxy.down.cut_after, proxy.down.reset = after, reset
        async with at(proxy, concurrency=2, max_batch_size=20) as embedder:
            job = asyncio.create_task(embed(embedder, numbers(100)))
            await until(lambda: server.ledger.requests >= 2)
            await until(lambda: "0 failures in a row" not in repr(embedder))
            proxy.cut_after = None
            outcome = await job
    assert (outcome.error, outcome.report.stored) == (None, 100)
    assert outcome.report.retries >= 1


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_n3_one_reply_in_four_is_cut_whatever_the_framing(framing: str) -> None:
    kinds = [Cut(after_bytes=n, framing=framing) for n in (50, 300, 900)]  # type: ignore[arg-type]
    retry = RetryPolicy(max_retries=9, backoff_base=0.05, backoff_max=0.2)  # who meets which fault is chance
    async with serving(Faults(3, 0.25, kinds)) as server, at(server, max_batch_size=20, retry=retry) as embedder:
        outcome = await embed(embedder, numbers(1_000))
        assert (outcome.error, outcome.report.stored) == (None, 1_000)


async def test_n5_a_reply_that_drips_is_given_up_at_its_deadline() -> None:
    async with serving(Plan(Drip(100.0))) as server, at(server, timeout=0.5, concurrency=1) as embedder:
        started = monotonic()
        outcome = await embed(embedder, numbers(100))
        assert 0.5 <= monotonic() - started <= 0.5 + 0.5
        assert (outcome.error, outcome.report.stored, outcome.report.retries) == (None, 100, 1)
        assert server.ledger.abandoned == 1


async def test_n6_a_server_that_says_nothing_is_given_up_at_its_deadline() -> None:
    async with serving() as server, Proxy(server.port) as proxy:
        proxy.down.stall_after = 0
        async with at(proxy, timeout=0.3, concurrency=1) as embedder:
            job = asyncio.create_task(embed(embedder, numbers(20)))
            await until(lambda: "1 failures" in repr(embedder))
            proxy.down.resume()
            outcome = await job
    assert (outcome.error, outcome.report.stored) == (None, 20)


@asynccontextmanager
async def deaf_port() -> AsyncIterator[int]:
    """A port whose queue of connections is full: the handshake is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        callers = [socket.socket() for _ in range(3)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for caller in callers:
                caller.close()


async def test_n6_connects_that_hang_use_up_no_connection() -> None:
    """Each is cancelled at its deadline, more of them than there are slots; then the server is there."""
    server = Server()
    async with deaf_port() as port:
        server.port = port
        embedder = at(server, timeout=0.1, concurrency=2, retry=RetryPolicy(backoff_base=0.01, backoff_max=0.02))
        job = asyncio.create_task(embed(embedder, numbers(60)))
        await until(lambda: "4 probes" in repr(embedder))
    async with server, embedder:
        outcome = await job
    assert (outcome.error, outcome.report.stored) == (None, 60)


async def test_n7_a_kept_connection_that_died_in_silence_costs_one_deadline() -> None:
    async with serving() as server, Proxy(server.port) as proxy, at(proxy, timeout=0.4, concurrency=1) as embedder:
        await embed(embedder, numbers(5))
        before = proxy.connections
        proxy.up.drop_after = 0
        job = asyncio.create_task(embed(embedder, numbers(20, start=100)))
        await until(lambda: proxy.connections > before)
        proxy.up.drop_after = None
        outcome = await job
    assert (outcome.error, outcome.report.stored) == (None, 20)
    assert outcome.report.retries <= 2


async def test_n8_no_request_waits_for_the_pool_and_no_more_connections_are_open_than_slots() -> None:
    async with serving(latency=Latency(fixed=0.01, scale=1.0)) as server:
        async with at(server, concurrency=4, max_batch_size=5, retry=RetryPolicy(max_retries=0)) as embedder:
            queries = [embedder.embed_query(f"question {i}") for i in range(100)]
            outcome, *vectors = await asyncio.gather(embed(embedder, numbers(500)), *queries)
            assert server.connections <= 4
        assert (outcome.error, outcome.report.stored, len(vectors)) == (None, 500, 100)
        assert server.ledger.max_in_flight <= 4


async def test_n9_endless_headers_are_an_error_of_the_server() -> None:
    async with serving(At(1, Flood(10_000_000, "headers"))) as server, at(server, max_batch_size=16) as embedder:
        outcome = await embed(embedder, numbers(160))
        assert (outcome.error, outcome.report.stored) == (None, 160)


async def test_e8_a_reply_that_ends_early_with_its_connection_is_bought_again_and_not_divided() -> None:
    cut = Cut(after_bytes=400, framing="close")
    async with serving(Plan(cut)) as server, at(server, concurrency=1) as embedder:
        outcome = await embed(embedder, numbers(20))
        assert (outcome.error, outcome.report.stored, outcome.report.retries) == (None, 20, 1)
        assert server.ledger.requests == 2


async def test_a_fault_of_every_kind_at_once() -> None:
    """A long job on a bad day: 15 % of the requests fail, in every way there is."""
    kinds = [Status(500), Status(503), Status(429), Hang(), Cut(after_bytes=200), Cut(0, reset=True), Truncate()]
    async with serving(Faults(11, 0.15, kinds), latency=Latency(0.1)) as server:
        async with at(server, max_batch_size=10, timeout=0.5, retry=QUICK) as embedder:
            outcome = await embed(embedder, numbers(1_500))
        assert (outcome.error, outcome.report.stored) == (None, 1_500)
        assert server.ledger.max_in_flight <= 8

"""Queries at the ends of loops and processes, over real sockets (rows X6 to X10)."""

from __future__ import annotations

import pytest

from tests.service.server import Latency, Server
from tests.test_endings import run


async def test_x6_a_fork_of_a_process_that_has_an_embedder_in_use_gets_a_client_of_its_own() -> None:
    program = """
import signal
async def once(*texts):
    return [len(await embedder.embed_query(text)) for text in texts]
async def parent():
    await once("before")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            asyncio.events._set_running_loop(None)
            widths = asyncio.run(once("child 1", "child 2"))
            os.write(write, b"right" if widths == [48, 48] else b"wrong")
        finally:
            os._exit(0)
    widths = await once("after")
    print(*widths, os.read(read, 100).decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(*await once("after the child has ended"))
    await embedder.aclose()
asyncio.run(parent())
"""
    async with Server() as server:
        assert (await run(program, server)).split() == ["48", "right", "0", "48"]
        assert server.ledger.accepted == 5


async def test_x6_workers_that_are_forked_or_spawned_embed() -> None:
    program = """
import multiprocessing
def work(text):
    return len(asyncio.run(embedder.embed_query(text)))
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(*pool.map(work, "abcd", chunksize=1))
"""
    async with Server() as server:
        assert (await run(program, server)).split() == ["48"] * 4


async def test_x7_queries_in_one_event_loop_after_another_and_in_none_that_has_ended() -> None:
    program = """
async def many(start):
    vectors = await asyncio.gather(*(embedder.embed_query(f"{start} {n % 7}") for n in range(50)))
    return len(vectors)
print(*[asyncio.run(many(start)) for start in range(3)])
asyncio.run(embedder.aclose())
"""
    async with Server() as server:
        assert (await run(program, server)).split() == ["50"] * 3
        assert sum(server.ledger.times_billed.values()) == 21


async def test_x8_a_reply_that_came_while_the_event_loop_was_blocked_is_taken() -> None:
    program = """
async def main():
    asyncio.get_running_loop().slow_callback_duration = 10
    async with embedder:
        await embedder.embed_query("first")
        task = asyncio.create_task(embedder.embed_query("second", timeout=0.5))
        await asyncio.sleep(0.1)
        time.sleep(0.7)
        print(len(await task), embedder.stats().accepted)
asyncio.run(main())
"""
    async with Server(latency=Latency(1.0, fixed=0.3, per_token=0)) as server:
        assert (await run(program, server)).split() == ["48", "2"]


async def test_x9_the_wall_clock_may_jump() -> None:
    """It is set forth and back before each query, and is read nowhere."""
    program = """
import itertools, time
jumps = itertools.cycle([0.0, 1e9, -5.0, 4e9, 86400.0])
real = time.time
time.time = lambda: real() + next(jumps)
async def main():
    async with embedder:
        for n in range(20):
            await embedder.embed_query(f"text {n}", timeout=5)
        documents = await embedder.embed_documents([f"document {n}" for n in range(100)])
        print(len(documents.vectors), embedder.stats().accepted)
asyncio.run(main())
"""
    async with Server() as server:
        assert (await run(program, server)).split() == ["100", "21"]


WAITING = """
async def main():
    for n in range(20):
        asyncio.create_task(embedder.embed_query(f"text {n % 9}"))
        await asyncio.sleep(float(os.environ["SECONDS"]))
asyncio.run(main())
print("ended")
"""


@pytest.mark.parametrize("seconds", [0, 0.002, 0.02])
async def test_x10_an_event_loop_that_ends_in_mid_query_has_nothing_to_warn_of(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", str(seconds))
    async with Server(latency=Latency(1.0)) as server:
        assert await run(WAITING, server) == "ended\n"

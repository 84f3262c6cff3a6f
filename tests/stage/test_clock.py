from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from tests.stage.clock import DeadlockError, run_virtual

HOUR = 3_600.0


@pytest.mark.parametrize("sleep", [asyncio.sleep, anyio.sleep])
def test_a_day_of_sleep_takes_no_time(sleep: Callable[[float], Awaitable[None]]) -> None:
    async def day() -> float:
        start = anyio.current_time()
        await sleep(24 * HOUR)
        return anyio.current_time() - start

    began = time.perf_counter()
    assert run_virtual(day) == pytest.approx(24 * HOUR)
    assert time.perf_counter() - began < 1.0


def test_timers_fire_in_their_order_at_their_time() -> None:
    async def sleepers() -> list[tuple[float, int]]:
        woken: list[tuple[float, int]] = []

        async def sleeper(n: int) -> None:
            await anyio.sleep(n * 0.1)
            woken.append((round(anyio.current_time(), 6), n))

        async with anyio.create_task_group() as group:
            for n in reversed(range(50)):
                group.start_soon(sleeper, n)
        return woken

    woken = run_virtual(sleepers)
    assert woken == [(round(n * 0.1, 6), n) for n in range(50)]
    assert woken == run_virtual(sleepers)


def test_deadlines_cancel_at_their_moment() -> None:
    async def late() -> float:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(1.5):
                await anyio.sleep(HOUR)
        with anyio.move_on_after(2.0):
            await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await anyio.Event().wait()
        return anyio.current_time()

    assert run_virtual(late) == pytest.approx(4.5)


def test_capacity_limiter_and_streams() -> None:
    async def crowd() -> float:
        limiter = anyio.CapacityLimiter(4)
        send, receive = anyio.create_memory_object_stream[int](2)

        async def work(n: int) -> None:
            async with limiter:
                await anyio.sleep(1.0)
            await send.send(n)

        async with send, receive, anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(work, n)
            assert sorted([await receive.receive() for _ in range(20)]) == list(range(20))
        return anyio.current_time()

    assert run_virtual(crowd) == pytest.approx(5.0)


async def _wait_for_ever() -> None:
    await asyncio.Event().wait()


async def _two_wait_for_each_other() -> None:
    one, two = anyio.Event(), anyio.Event()

    async def first() -> None:
        await two.wait()
        one.set()

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await one.wait()
        two.set()


@pytest.mark.parametrize("stuck", [_wait_for_ever, _two_wait_for_each_other])
def test_a_deadlock_is_an_error_that_names_the_tasks(stuck: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with pytest.raises(DeadlockError, match=stuck.__name__):
        run_virtual(stuck)


async def _executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, time.time)


async def _socket() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        await asyncio.get_running_loop().sock_recv(near, 1)


@pytest.mark.parametrize("real", [_executor, _socket])
def test_the_real_world_is_refused(real: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with pytest.raises(RuntimeError, match="virtual time"):
        run_virtual(real)


def test_result_and_exception_come_out() -> None:
    async def add(a: int, b: int) -> int:
        await anyio.sleep(1)
        return a + b

    async def fail() -> None:
        await anyio.sleep(1)
        raise KeyError("x")

    assert run_virtual(add, 1, 2) == 3
    with pytest.raises(KeyError):
        run_virtual(fail)


def test_background_tasks_are_cancelled_at_the_end() -> None:
    ended: list[float] = []

    async def background() -> None:
        try:
            await anyio.sleep(HOUR)
        finally:
            ended.append(anyio.current_time())

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(background())
        await anyio.sleep(2)
        return task

    assert run_virtual(main).cancelled()
    assert ended == [2.0]

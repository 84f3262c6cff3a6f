from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.stage.proxy import Proxy

SENT = bytes(range(256)) * 40


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Proxy, bytearray]]:
    """A server that notes what it gets and sends it back, behind a proxy."""
    received, writers = bytearray(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError):
            while data := await reader.read(65_536):
                received.extend(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy, received
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        await server.wait_closed()


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_passes_everything_when_nothing_is_set() -> None:
    async with echo() as (proxy, received), client(proxy) as (reader, writer):
        writer.write(SENT)
        assert await reader.readexactly(len(SENT)) == SENT
        assert bytes(received) == SENT
        assert proxy.connections == 1
        assert proxy.up.passed_bytes == proxy.down.passed_bytes == len(SENT)


@pytest.mark.parametrize("position", [0, 1, 255, 1_000, len(SENT) - 1])
async def test_cuts_a_reply_at_the_byte(position: int) -> None:
    async with echo() as (proxy, _), client(proxy) as (reader, writer):
        proxy.cut_after = position
        assert proxy.down.cut_after == proxy.cut_after
        writer.write(SENT)
        with suppress(ConnectionResetError):
            assert await reader.read() == SENT[:position]
            return
        assert position == 0, "only a connection cut before the request was read may end in a reset"


@pytest.mark.parametrize("position", [1, 4_000])
async def test_cuts_a_request_at_the_byte(position: int) -> None:
    async with echo() as (proxy, received), client(proxy) as (reader, writer):
        proxy.up.cut_after = position
        writer.write(SENT)
        with suppress(ConnectionResetError):
            await reader.read()
        assert bytes(received) in {SENT[:position], b""}
        assert proxy.up.passed_bytes == position


async def test_a_cut_can_be_a_reset() -> None:
    async with echo() as (proxy, _), client(proxy) as (reader, writer):
        proxy.down.cut_after, proxy.down.reset = 100, True
        writer.write(SENT)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(len(SENT))


async def test_a_mark_set_on_an_idle_connection_holds() -> None:
    async with echo() as (proxy, _), client(proxy) as (reader, writer):
        writer.write(b"ab")
        assert await reader.readexactly(2) == b"ab"
        proxy.cut_after = 5
        writer.write(b"cdefgh")
        assert await reader.read() == b"cde"


async def test_stalls_at_the_byte_until_resumed() -> None:
    async with echo() as (proxy, _), client(proxy) as (reader, writer):
        proxy.down.stall_after = 300
        writer.write(SENT)
        assert await reader.readexactly(300) == SENT[:300]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        proxy.down.resume()
        assert await reader.readexactly(len(SENT) - 300) == SENT[300:]


async def test_drops_in_silence() -> None:
    async with echo() as (proxy, received), client(proxy) as (reader, writer):
        proxy.up.drop_after = 10
        writer.write(SENT)
        assert await reader.readexactly(10) == SENT[:10]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        assert bytes(received) == SENT[:10]


@pytest.mark.parametrize(("setting", "value"), [("delay", 0.2), ("bytes_per_second", 20_000.0)])
async def test_is_slow_when_told(setting: str, value: float) -> None:
    async with echo() as (proxy, _), client(proxy) as (reader, writer):
        setattr(proxy.down, setting, value)
        began = time.perf_counter()
        writer.write(SENT[:4_000])
        assert await reader.readexactly(4_000) == SENT[:4_000]
        assert 0.15 < time.perf_counter() - began < 2.0


async def test_refuses_and_takes_connections_again_on_the_same_port() -> None:
    async with echo() as (proxy, _):
        port = proxy.port
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await proxy.listen()
        assert proxy.port == port
        async with client(proxy) as (reader, writer):
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"


async def test_drops_open_connections_with_a_reset() -> None:
    async with echo() as (proxy, _), client(proxy) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        await proxy.drop_connections()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


async def test_a_target_that_is_away_ends_the_connection() -> None:
    async with echo() as (proxy, _):
        proxy.refuse()
        dead = proxy.port
    async with Proxy(dead) as proxy, client(proxy) as (reader, _):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert proxy.connections == 1

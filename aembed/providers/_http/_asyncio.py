"""httpcore on asyncio's own transports: direct connections, with the least work for each byte of a large reply.

httpx reaches the network through anyio, at most 64 KiB a read, each with its checkpoints and a time limit; that
was the largest single cost of a large job, twice so under TLS. Here a read gives all that has come.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import httpcore
import httpx

READ_BYTES = 512 * 1024
"""Received at once at the most. There is room for twice as much: then the sender has to wait."""
HAPPY_EYEBALLS_SECONDS = 0.25
"""RFC 8305: how long one address of a host may take before the next one is tried beside it."""


class DirectTransport(httpx.AsyncBaseTransport):
    """httpcore's pool of connections on `AsyncioBackend`. Proxies are not for this one. Raises httpcore's errors."""

    def __init__(self, limits: httpx.Limits) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=AsyncioBackend(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_stream()

    async def aclose(self) -> None:
        await self._response.aclose()


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _raising(httpcore.ConnectTimeout, httpcore.ConnectError):
            async with asyncio.timeout(timeout):
                transport, incoming = await asyncio.get_running_loop().create_connection(
                    _Incoming,
                    host,
                    port,
                    local_addr=(local_address, 0) if local_address else None,
                    happy_eyeballs_delay=None if _is_address(host) else HAPPY_EYEBALLS_SECONDS,
                )
        for option in socket_options or ():
            transport.get_extra_info("socket").setsockopt(*option)
        return _Stream(transport, incoming)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, transport: asyncio.Transport, incoming: _Incoming) -> None:
        self._transport = incoming.transport = transport
        self._incoming = incoming

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """All that has come, which may be more than `max_bytes`; empty at the end."""
        incoming = self._incoming
        with _raising(httpcore.ReadTimeout, httpcore.ReadError):
            if not incoming.readable:
                async with asyncio.timeout(timeout):
                    await incoming.arrival.wait()
            data = incoming.take()
        if not incoming.ended:
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _raising(httpcore.WriteTimeout, httpcore.WriteError):
            if self._incoming.lost:
                raise self._incoming.error or ConnectionResetError("the connection is closed")
            self._transport.write(buffer)
            async with asyncio.timeout(timeout):
                await self._incoming.writable.wait()

    async def aclose(self) -> None:
        self._transport.abort()
        await asyncio.sleep(0)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            with _raising(httpcore.ConnectTimeout, httpcore.ConnectError):
                async with asyncio.timeout(timeout):
                    transport = await loop.start_tls(
                        self._transport, self._incoming, ssl_context, server_hostname=server_hostname
                    )
        except BaseException:
            self._transport.abort()
            raise
        if transport is None:
            raise httpcore.ConnectError("the connection was closed during the handshake")
        return _Stream(transport, self._incoming)

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "is_readable":  # Asked of an idle connection: the server has closed it.
                return self._incoming.readable
            case "client_addr":
                return self._transport.get_extra_info("sockname")
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case _:
                return self._transport.get_extra_info(info)


class _Incoming(asyncio.BufferedProtocol):
    """What came and was not read yet, and whether more may be written."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(2 * READ_BYTES))
        self._filled = 0
        self.transport: asyncio.Transport | None = None
        self.arrival, self.writable = asyncio.Event(), asyncio.Event()
        self.writable.set()
        self.ended = self.lost = False
        self.error: Exception | None = None

    @property
    def readable(self) -> bool:
        return self._filled > 0 or self.ended

    def take(self) -> bytes:
        """Raises the error that the connection ended in, after all that came before."""
        if not self._filled and self.error:
            raise self.error
        data, self._filled = bytes(self._buffer[: self._filled]), 0
        if not self.ended:
            self.arrival.clear()
        return data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled : self._filled + READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self.arrival.set()
        if self._filled == len(self._buffer) and self.transport:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error, self.lost = exc, True
        self._end()
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def _end(self) -> None:
        self.ended = True
        self.arrival.set()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@contextmanager
def _raising(late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    """asyncio's errors as httpcore's."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error

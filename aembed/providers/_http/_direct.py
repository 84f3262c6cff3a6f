"""Connections of our own to one service or several: made when needed, kept for the next request."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import lru_cache

import anyio
import h11
import httpx

from aembed.providers._http._connection import Connection
from aembed.providers._http._dialing import connected
from aembed.providers._http._message import Exchange, HTTPReply
from aembed.providers._http._resolving import Resolver
from aembed.providers._threads import run_in_thread

KEEPALIVE_SECONDS = 30.0


class ConnectError(Exception):
    """Its cause says why there is no connection."""


@dataclass(frozen=True, slots=True)
class Origin:
    tls: bool
    host: str
    port: int


class DirectClient:
    """Belongs to one event loop. Proxies are not for this one."""

    def __init__(self, concurrency: int, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._resting: dict[Origin, list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._resolver = Resolver()
        self._making = anyio.Lock()

    async def post(self, exchange: Exchange) -> HTTPReply:
        """Raises ConnectError before anything was sent; else OSError, h11's ProtocolError, or what the body raises."""
        origin, target, host = _parts(exchange.url)
        headers = [("host", host), *exchange.revealed(), ("content-length", str(len(exchange.content)))]
        request = h11.Request(method="POST", target=target, headers=headers)
        async with self._slots:
            connection = self._rested(origin)
            if connection is None:
                connection = await self._connected(origin)
                exchange.connected = True
            reply = await connection.exchange(request, exchange)
            if connection.usable:
                self._rest(origin, connection)
            else:
                connection.abort()
            return reply

    async def aclose(self) -> None:
        for connections in self._resting.values():
            for connection in connections:
                connection.abort()
        self._resting.clear()
        await asyncio.sleep(0)

    def _rested(self, origin: Origin) -> Connection | None:
        """The one that rests for the shortest time. Those that rested for too long are closed."""
        resting = self._resting.get(origin, [])
        oldest = asyncio.get_running_loop().time() - KEEPALIVE_SECONDS
        while resting and (not resting[0].usable or resting[0].rests_since < oldest):
            resting.pop(0).abort()
        while resting:
            connection = resting.pop()
            if connection.usable:
                return connection
        return None

    def _rest(self, origin: Origin, connection: Connection) -> None:
        connection.rests_since = asyncio.get_running_loop().time()
        self._resting.setdefault(origin, []).append(connection)

    async def _connected(self, origin: Origin) -> Connection:
        tls = await self._context() if origin.tls else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                addresses = await self._resolver.addresses(origin.host, origin.port)
                return await connected(addresses, tls, origin.host)
        except (OSError, TimeoutError) as error:
            raise ConnectError(str(error)) from error

    async def _context(self) -> ssl.SSLContext:
        async with self._making:
            if self._tls is None:
                # Reading the certificates takes 20 to 100 ms: in a thread (law 11).
                self._tls = await run_in_thread(httpx.create_ssl_context)
            return self._tls


@lru_cache(maxsize=64)
def _parts(url: str) -> tuple[Origin, str, str]:
    """Where to connect, what to ask for there, and the name of the host as it is sent."""
    parsed = httpx.URL(url)
    tls = parsed.scheme == "https"
    origin = Origin(tls, parsed.raw_host.decode(), parsed.port or (443 if tls else 80))
    return origin, parsed.raw_path.decode(), parsed.netloc.decode()

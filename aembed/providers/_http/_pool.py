"""Connections of our own to one service or several: made when needed, kept for the next request.

To httpx it is a pool of httpcore, which it asks for replies.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import h11
import httpcore

from aembed.core.sending import not_sent_yet
from aembed.providers._http._connection import Connection
from aembed.providers._http._dialing import ServerProtocol, connect_first, find_protocol
from aembed.providers._http._incoming_reply import IncomingReply
from aembed.providers._http._message import EXTENSION, Exchange
from aembed.providers._http._origin import Connections
from aembed.providers._http._resolving import Resolver
from aembed.providers._http._upload import Upload
from aembed.providers._http._watching import is_original

# Chosen: it is asked of a server that has just taken a connection. Larger, the error that is known already is told
# later by that.
QUESTION_SECONDS = 2.0
# Chosen: the heads of queries to one service differ by their content-length alone, of which there are so few.
MOST_HEADS = 256
"""So many of the heads that were sent are kept."""


class Origin(NamedTuple):
    tls: bool
    host: str
    port: int


class Pool(httpcore.AsyncConnectionPool):
    """Belongs to one event loop. `trusted` makes the context for TLS, at its first use."""

    def __init__(
        self, concurrency: int, connect_timeout: float, trusted: Callable[[], Awaitable[ssl.SSLContext]]
    ) -> None:
        super().__init__()
        self._connect_timeout = connect_timeout
        self._trusted = trusted
        self._slots = asyncio.Semaphore(concurrency)
        self._origins: dict[Origin, Connections] = {}
        self._resolver = Resolver()
        # h11 checks a head name by name, which is a tenth of the time that a lone call takes.
        self.make_head = lru_cache(maxsize=MOST_HEADS)(_make_head)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """What httpx asks. Returns once the head of the reply is there. Raises errors of httpcore."""
        if not is_original(patched := httpcore.AsyncConnectionPool.handle_async_request):
            return await patched(self, request)  # a mock, in the place of all pools
        exchange: Exchange = request.extensions[EXTENSION]
        url = request.url
        head, origin = _head(request), _origin(url.scheme, url.host, url.port)
        content = exchange.content if isinstance(exchange.content, Upload) else await _content(request)
        try:
            connection = await self.ask(origin, head, exchange, content)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error
        except h11.RemoteProtocolError as error:
            raise httpcore.RemoteProtocolError(str(error)) from error
        arriving = connection.arriving
        stream = _Stream(arriving, partial(self.finish, origin, connection))
        http = {"http_version": b"HTTP/1.1"}
        return httpcore.Response(arriving.status, headers=arriving.headers, content=stream, extensions=http)

    async def ask(self, origin: Origin, head: h11.Request, exchange: Exchange, content: bytes | Upload) -> Connection:
        """The connection on which the head of the reply has come; once its body has been read, `finish` with it.

        Raises httpcore's ConnectError and ConnectTimeout, OSError, h11's ProtocolError, ConfigError.
        """
        exchange.begin()
        with not_sent_yet.get()():
            await self._slots.acquire()
            try:
                connection = await self._connections_to(origin).take(exchange)
            except BaseException:
                self._slots.release()
                raise
        try:
            await connection.ask(head, content, exchange)
        except BaseException:
            self._slots.release()
            raise
        return connection

    def finish(self, origin: Origin, connection: Connection) -> None:
        self._connections_to(origin).give_back(connection)
        self._slots.release()

    async def aclose(self) -> None:
        for connections in self._origins.values():
            connections.close()
        self._origins.clear()
        # asyncio closes a transport in the next round of its loop. A loop that ends before it leaves an open socket,
        # and a ResourceWarning.
        await asyncio.sleep(0)

    def _connections_to(self, origin: Origin) -> Connections:
        if origin not in self._origins:
            self._origins[origin] = Connections(partial(self._connect, origin))
        return self._origins[origin]

    async def ask_protocol(self, origin: Origin) -> ServerProtocol | None:
        """Of a server that never answered: one handshake of TLS, which sends nothing. None where it did answer."""
        if self._connections_to(origin).answered:
            return None
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(QUESTION_SECONDS):
                return await find_protocol(await self._resolver.addresses(origin.host, origin.port), origin.host)
        return None

    async def _connect(self, origin: Origin) -> Connection:
        tls = await self._trusted() if origin.tls else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                addresses = await self._resolver.addresses(origin.host, origin.port)
                return await connect_first(addresses, tls, origin.host)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{self._connect_timeout:g} s") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error


@dataclass(eq=False, repr=False)
class _Stream:
    """The body of a reply, as httpcore has it. Whoever closes it gives back the connection."""

    _arriving: IncomingReply
    _finish: Callable[[], None] | None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._arriving)

    async def aclose(self) -> None:
        finish, self._finish = self._finish, None
        if finish:
            finish()


def _make_head(method: str, target: bytes, headers: tuple[tuple[str, str], ...]) -> h11.Request:
    return h11.Request(method=method, target=target, headers=list(headers))


def _head(request: httpcore.Request) -> h11.Request:
    """Its headers name the host and the length of the content: httpx sees to that."""
    try:
        return h11.Request(method=request.method, target=request.url.target, headers=request.headers)
    except h11.LocalProtocolError:
        # Its message may hold a header.
        raise httpcore.LocalProtocolError("a header cannot be sent") from None


async def _content(request: httpcore.Request) -> bytes:
    """All of it: a request of ours has one part, and that is not copied."""
    stream = request.stream
    return b"".join(stream if isinstance(stream, Iterable) else [part async for part in stream])


@lru_cache(maxsize=64)
def _origin(scheme: bytes, host: bytes, port: int | None) -> Origin:
    tls = scheme == b"https"
    return Origin(tls, host.decode("ascii"), port or (443 if tls else 80))

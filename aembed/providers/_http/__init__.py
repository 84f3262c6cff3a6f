"""The only importer of httpx: one request, its reply read up to a limit, every fault a typed error.

    post, get, delete    a reply that is read at once
    post with an Upload  a file that goes out piece by piece
    download             a reply that is read piece by piece

Read from the environment, as httpx does: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and
SSL_CERT_DIR. Pass an `http_client` with `trust_env=False` where that is not wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from aembed.errors import AembedError, ConfigError, ProviderError, UnavailableError
from aembed.providers._http._body import MOST_ERROR_BYTES, Take, cut_short
from aembed.providers._http._client import Clients, HTTPClient, Route
from aembed.providers._http._download import Download
from aembed.providers._http._faults import error_of_fault, is_connection_taken, is_of_http, unsent_error
from aembed.providers._http._message import Exchange, HTTPReply
from aembed.providers._http._pool import Pool
from aembed.providers._http._proxies import refusal_of_proxy
from aembed.providers._http._sending import (
    open_by_client,
    open_by_pool,
    request_address,
    send_by_client,
    send_by_pool,
)
from aembed.providers._http._tls import speaks_tls_error, wants_certificate
from aembed.providers._http._upload import Upload, multipart
from aembed.providers._http._watching import is_watched
from aembed.providers._secrets import Secret

__all__ = [
    "HTTP",
    "MOST_ERROR_BYTES",
    "HTTPClient",
    "HTTPReply",
    "Incoming",
    "Upload",
    "cut_short",
    "most_reply_bytes",
    "multipart",
]

T = TypeVar("T")


def most_reply_bytes(inputs: int, dimensions: int | None) -> int:
    """What a reply to that many inputs may weigh: 32 bytes a number, and 1 MB around them."""
    # Computed: a float64 in JSON takes 25 bytes with its comma and a space, in base64 a value takes 6. Where no width
    # is known it is the most that pgvector stores. Chosen: 32, for replies that are indented.
    return inputs * (dimensions or 16_000) * 32 + 1_000_000


class HTTP:
    """Sends requests through httpx: over at most `concurrency` connections of its own, or the user's `http_client`.

    Its own clients belong to the running event loop: they are made at the first request, made anew in another
    loop, and closed by `aclose`, which must run in the same loop, or else as that loop ends. The user's client is
    never changed or closed.
    """

    # connect_timeout is chosen: a TCP handshake takes less than a second around the world; 5 s leave room for two
    # packets that are lost and sent again after one and two seconds. Larger, a dead address is told later.
    def __init__(
        self, *, concurrency: int, http_client: HTTPClient | None = None, connect_timeout: float = 5.0
    ) -> None:
        self._concurrency = concurrency
        self._connect_timeout = connect_timeout
        self._given = http_client
        self._own: Clients | None = None
        self._lifetime: AsyncGenerator[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(
        self,
        url: str,
        headers: Mapping[str, str | Secret],
        content: bytes | Upload,
        *,
        most_bytes: int,
        take: Take | None = None,
    ) -> HTTPReply:
        """One request; there is no time limit but that for connecting. Raises ProviderError, or ConfigError.

        With `take`, the body of a reply that is no error goes there piece by piece, as it comes.
        A kept connection that the server closed as we sent is no answer: the error says that it may be sent `at_once`.
        """
        return await self._send_exchange(Exchange(url, headers, content, most_bytes, take))

    async def get(self, url: str, headers: Mapping[str, str | Secret], *, most_bytes: int) -> HTTPReply:
        """The same for a question, which costs nothing."""
        return await self._send_exchange(Exchange(url, headers, b"", most_bytes, method="GET"))

    async def delete(self, url: str, headers: Mapping[str, str | Secret], *, most_bytes: int) -> HTTPReply:
        return await self._send_exchange(Exchange(url, headers, b"", most_bytes, method="DELETE"))

    @asynccontextmanager
    async def download(
        self, url: str, headers: Mapping[str, str | Secret], *, most_bytes: int
    ) -> AsyncIterator[HTTPReply | Incoming]:
        """A GET whose reply is read while the context is open; of an error the body has been read."""
        exchange = Exchange(url, headers, b"", most_bytes, method="GET")
        async with AsyncExitStack() as stack:

            async def open_reply(route: Route) -> HTTPReply | Download:
                if route.pool and not is_watched():
                    return await stack.enter_async_context(open_by_pool(route.pool, exchange))
                wait, ours = self._connect_timeout, self._given is None
                opening = open_by_client(route.client, exchange, ours=ours, connect_timeout=wait)
                return await stack.enter_async_context(opening)

            opened = await self._attempt(exchange, open_reply)
            yield Incoming(opened, partial(self._attempt, exchange)) if isinstance(opened, Download) else opened

    async def _send_exchange(self, exchange: Exchange) -> HTTPReply:
        async def send(route: Route) -> HTTPReply:
            if route.pool and not is_watched():
                reply = await send_by_pool(route.pool, exchange)
            else:
                wait, ours = self._connect_timeout, self._given is None
                reply = await send_by_client(route.client, exchange, ours=ours, connect_timeout=wait)
            return replace(reply, via=str(route.proxy)) if route.proxy and exchange.url.startswith("http:") else reply

        return await self._attempt(exchange, send)

    async def _attempt(self, exchange: Exchange, step: Callable[[Route], Awaitable[T]]) -> T:
        """One step of an exchange: the whole of it, its beginning, or the next piece of its reply."""
        outcome = await self._outcome_or_error(exchange, step)
        if isinstance(outcome, AembedError):
            if isinstance(outcome, UnavailableError):
                outcome.at_once = exchange.is_stale
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Closes the connections that were made here, if they belong to this loop."""
        lifetime, self._lifetime, self._own = self._lifetime, None, None
        if lifetime is not None and self._loop is asyncio.get_running_loop():
            await lifetime.aclose()

    async def _outcome_or_error(self, exchange: Exchange, step: Callable[[Route], Awaitable[T]]) -> T | AembedError:
        """The error is returned, without the frames it came through: they hold the key, as does what caused it."""
        route = None
        try:
            route = await self._route(exchange.url)
            outcome = await step(route)
            # Where the request was not encrypted, a proxy may have answered in the place of the server.
            if isinstance(outcome, HTTPReply) and outcome.status == 407 and (route.proxy or self._given):
                raise unsent_error(refusal_of_proxy(route.proxy, "407", urlsplit(exchange.url).netloc))
            return outcome
        except (ProviderError, ConfigError) as error:
            return error.with_traceback(None)
        except Exception as error:
            if not is_of_http(error):
                raise
            found, taken = (
                error_of_fault(error, exchange.url, route.proxy if route else None),
                is_connection_taken(error),
            )
        if route and route.pool and isinstance(found, UnavailableError):
            return await _explain_no_answer(found, route.pool, exchange, taken=taken)
        return found

    async def _route(self, url: str) -> Route:
        if self._given is not None:
            if self._given.is_closed:
                raise ProviderError("the http_client is closed; pass one that is open for as long as the embedder")
            return Route(self._given)
        loop = asyncio.get_running_loop()
        if self._own is None or self._loop is not loop:
            self._own, self._loop = Clients(self._concurrency, self._connect_timeout), loop
            self._lifetime = _lifetime(self._own)
            await anext(self._lifetime)
        return await self._own.route(url)


class Incoming:
    """A reply that is read piece by piece."""

    def __init__(
        self, opened: Download, attempt: Callable[[Callable[[Route], Awaitable[bytes]]], Awaitable[bytes]]
    ) -> None:
        self._opened, self._attempt = opened, attempt

    async def read(self) -> bytes:
        """The next bytes, b"" at the end of a body that came whole. Raises ProviderError."""
        return await self._attempt(lambda _: self._opened.read())


async def _explain_no_answer(found: UnavailableError, pool: Pool, exchange: Exchange, *, taken: bool) -> ProviderError:
    """Of a server that takes connections, never answered anything, and closes them: some do so for want of TLS, or of a
    client certificate, and no waiting helps."""
    silent = exchange.connected and exchange.sent and not exchange.answered
    speaks = await pool.ask_protocol(request_address(exchange.url).origin) if silent or taken else None
    host = urlsplit(exchange.url).netloc
    if speaks and speaks.tls and exchange.url.startswith("http:"):
        return unsent_error(speaks_tls_error(host))
    if speaks and speaks.wants_certificate:
        return unsent_error(wants_certificate(host))
    return found


async def _lifetime(clients: Clients) -> AsyncGenerator[None]:
    """As an event loop ends, asyncio closes the generators that were left open in it, and this one the connections."""
    try:
        yield
    finally:
        await clients.aclose()

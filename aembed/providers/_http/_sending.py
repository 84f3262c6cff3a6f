"""One exchange through a client of httpx, or straight over a connection of our own where nobody looks on.

A reply is read at once, or opened: then its body is read piece by piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import anyio
import httpx

from aembed.providers._http._body import is_framed
from aembed.providers._http._client import HTTPClient
from aembed.providers._http._connection import Connection
from aembed.providers._http._download import Download
from aembed.providers._http._incoming_reply import IncomingReply
from aembed.providers._http._message import EXTENSION, Exchange, HTTPReply
from aembed.providers._http._pool import Origin, Pool


async def send_by_client(client: HTTPClient, exchange: Exchange, *, ours: bool, connect_timeout: float) -> HTTPReply:
    """Raises the errors of httpx or httpx2, OSError, h11's ProtocolError, and what the body raises."""
    async with _response(client, exchange, ours=ours, connect_timeout=connect_timeout) as response:
        return await _read(response, exchange)


@asynccontextmanager
async def open_by_client(
    client: HTTPClient, exchange: Exchange, *, ours: bool, connect_timeout: float
) -> AsyncIterator[HTTPReply | Download]:
    """The body of an error has been read. Raises what `send_by_client` raises."""
    async with _response(client, exchange, ours=ours, connect_timeout=connect_timeout) as response:
        status, headers = response.status_code, _decode_headers(response.headers.raw)
        if status >= 300 or response.is_stream_consumed:
            yield await _read(response, exchange)
        else:
            yield _download(exchange, headers, response.aiter_raw(), framed=_is_framed(response, headers))


@asynccontextmanager
async def _response(
    client: HTTPClient, exchange: Exchange, *, ours: bool, connect_timeout: float
) -> AsyncIterator[Any]:
    # The user's client adds its own headers and parameters; ours has none, and so need not be asked.
    build = httpx.Request if ours else client.build_request
    request = build(
        exchange.method,
        exchange.url,
        headers=exchange.revealed_headers(),
        content=exchange.content or None,
        # The read timeout is per chunk and proves nothing; the pool is never waited for. The caller has a deadline.
        extensions={
            "timeout": {"connect": connect_timeout, "read": None, "write": None, "pool": None},
            "trace": exchange.trace,
            EXTENSION: exchange,
        },
    )
    response = await client.send(request, stream=True, follow_redirects=False)
    try:
        yield response
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()


async def _read(response: Any, exchange: Exchange) -> HTTPReply:
    status, headers = response.status_code, _decode_headers(response.headers.raw)
    framed = _is_framed(response, headers)
    if response.is_stream_consumed:
        # An event hook of the client, or its auth, has read it, and decompressed.
        framing = ("content-encoding", "content-length")
        body = exchange.body_of(status, {name: headers[name] for name in headers if name not in framing}, framed=framed)
        body.feed(await response.aread())
    else:
        body = exchange.body_of(status, headers, framed=framed)
        async for chunk in response.aiter_raw():
            body.feed(chunk)
            if body.full:
                break
    return HTTPReply(status, headers, body.finish(), framed)


def _is_framed(response: Any, headers: Mapping[str, str]) -> bool:
    return is_framed(response.status_code, headers) or not response.extensions.get("http_version", b"").startswith(
        b"HTTP/1"
    )


async def send_by_pool(pool: Pool, exchange: Exchange) -> HTTPReply:
    """Raises httpcore's ConnectError and ConnectTimeout, ConfigError, and what else `send_by_client` raises."""
    place = request_address(exchange.url)
    connection = await _ask(pool, place, exchange)
    try:
        return await _read_arriving(connection.arriving, exchange)
    finally:
        pool.finish(place.origin, connection)


@asynccontextmanager
async def open_by_pool(pool: Pool, exchange: Exchange) -> AsyncIterator[HTTPReply | Download]:
    """The body of an error has been read. Raises what `send_by_pool` raises."""
    place = request_address(exchange.url)
    connection = await _ask(pool, place, exchange)
    arriving = connection.arriving
    try:
        if arriving.status >= 300:
            yield await _read_arriving(arriving, exchange)
        else:
            headers = _decode_headers(arriving.headers)
            yield _download(exchange, headers, aiter(arriving), framed=is_framed(arriving.status, headers))
    finally:
        pool.finish(place.origin, connection)


async def _ask(pool: Pool, place: RequestAddress, exchange: Exchange) -> Connection:
    headers_out = [place.host, *exchange.revealed_headers()]
    if exchange.content and isinstance(exchange.content, bytes):
        headers_out.append(("content-length", str(exchange.content_bytes)))
    head = pool.make_head(exchange.method, place.target, tuple(headers_out))
    return await pool.ask(place.origin, head, exchange, exchange.content)


async def _read_arriving(arriving: IncomingReply, exchange: Exchange) -> HTTPReply:
    headers = _decode_headers(arriving.headers)
    framed = is_framed(arriving.status, headers)
    body = exchange.body_of(arriving.status, headers, framed=framed)
    await arriving.read(body)
    return HTTPReply(arriving.status, headers, body.finish(), framed)


def _download(
    exchange: Exchange, headers: Mapping[str, str], pieces: AsyncIterator[bytes], *, framed: bool
) -> Download:
    exchange.answered = True
    return Download(headers, pieces, exchange.most_bytes, framed=framed)


def _decode_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


@dataclass(frozen=True, slots=True)
class RequestAddress:
    origin: Origin
    host: tuple[str, str]
    target: bytes


@lru_cache(maxsize=64)
def request_address(url: str) -> RequestAddress:
    """Where to connect, the host as a header says it, and what to ask for there."""
    parsed = httpx.URL(url)
    tls = parsed.scheme == "https"
    origin = Origin(tls, parsed.raw_host.decode("ascii"), parsed.port or (443 if tls else 80))
    return RequestAddress(origin, ("host", parsed.netloc.decode("ascii")), parsed.raw_path)

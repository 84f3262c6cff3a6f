"""Requests over a client of httpx or httpx2: the user's own, or one that knows the way through a proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import anyio
import httpx

from aembed.errors import ProviderError
from aembed.providers._http._direct import KEEPALIVE_SECONDS
from aembed.providers._http._message import Exchange, HTTPReply

HTTPClient: TypeAlias = Any
"""An `AsyncClient` of httpx or of httpx2."""


class GivenClient:
    def __init__(self, client: HTTPClient, *, connect_timeout: float) -> None:
        self._client = client
        self._connect_timeout = connect_timeout

    async def post(self, exchange: Exchange) -> HTTPReply:
        """Raises the errors of httpx or httpx2, and what the body raises."""
        if self._client.is_closed:
            raise ProviderError("the http_client is closed; pass one that is open for as long as the embedder")
        request = self._client.build_request(
            "POST",
            exchange.url,
            headers=exchange.revealed(),
            content=exchange.content,
            extensions={"trace": _Trace(exchange), "timeout": _timeouts(self._connect_timeout)},
        )
        response = await self._client.send(request, stream=True, follow_redirects=False)
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = exchange.body_of(response.status_code, headers)
            async for chunk in response.aiter_raw():
                body.feed(chunk)
                if body.full:
                    break
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
        return HTTPReply(response.status_code, headers, body.finish())

    async def aclose(self) -> None:
        await self._client.aclose()


def proxied(concurrency: int, connect_timeout: float) -> GivenClient:
    """httpx's own way, through the proxies that the environment names."""
    limits = httpx.Limits(
        max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=KEEPALIVE_SECONDS
    )
    return GivenClient(httpx.AsyncClient(limits=limits), connect_timeout=connect_timeout)


def _timeouts(connect: float) -> dict[str, float | None]:
    """The read timeout is per chunk and proves nothing; the pool is never waited for. The caller has a deadline."""
    return {"connect": connect, "read": None, "write": None, "pool": None}


class _Trace:
    """httpcore calls it at each step of a request."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        step = event.partition(".")[2]
        self._exchange.connected |= step.startswith("connect_")
        self._exchange.sent |= step == "send_request_headers.started"
        self._exchange.answered |= step == "receive_response_headers.complete"

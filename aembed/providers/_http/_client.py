"""The clients of httpx that requests go through: our own, one for each proxy and one that connects by itself."""

from __future__ import annotations

from dataclasses import dataclass
from http.cookiejar import CookieJar
from typing import Any, TypeAlias

import httpx

from aembed.providers._http._connection import KEEPALIVE_SECONDS
from aembed.providers._http._pool import Pool
from aembed.providers._http._proxies import Proxy, proxy_for
from aembed.providers._http._trust import Trust

HTTPClient: TypeAlias = Any
"""An `AsyncClient` of httpx or of httpx2."""


@dataclass(frozen=True, slots=True)
class Route:
    """How requests to one URL go out. With a `pool` the client is asked for the sake of those who look on alone."""

    client: HTTPClient
    proxy: Proxy | None = None
    pool: Pool | None = None


class Clients:
    """Those of one event loop, made when needed. Raises ConfigError where the environment is wrong."""

    def __init__(self, concurrency: int, connect_timeout: float) -> None:
        self._concurrency = concurrency
        self._connect_timeout = connect_timeout
        self._trust = Trust()
        self._routes: dict[str, Route] = {}
        self._clients: dict[Proxy | None, httpx.AsyncClient] = {}
        self._pool = Pool(concurrency, connect_timeout, self._trust.context)

    async def route(self, url: str) -> Route:
        """The environment is read at the first request to that server."""
        origin = "/".join(url.split("/", 3)[:3])
        if route := self._routes.get(origin):
            return route
        proxy = proxy_for(url)
        if proxy is None:
            client = self._clients.get(None) or _client(Transport(self._pool))
        else:
            client = self._clients.get(proxy) or await self._client_through(proxy)
        self._clients[proxy] = client
        return self._routes.setdefault(origin, Route(client, proxy, None if proxy else self._pool))

    async def aclose(self) -> None:
        clients = list(self._clients.values())
        self._routes.clear()
        self._clients.clear()
        for client in clients:
            await client.aclose()

    async def _client_through(self, proxy: Proxy) -> httpx.AsyncClient:
        """httpx's own connections."""
        tls = await self._trust.context()
        if made := self._clients.get(proxy):
            return made
        # By default httpx keeps 20 connections that rest and httpcore closes good ones beyond them, to make them anew.
        limits = httpx.Limits(
            max_connections=self._concurrency,
            max_keepalive_connections=self._concurrency,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )
        named = httpx.Proxy(proxy.url, ssl_context=tls if proxy.url.startswith("https:") else None)
        return _client(httpx.AsyncHTTPTransport(verify=tls, proxy=named, limits=limits, trust_env=False))


def _client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, cookies=NoCookies(), trust_env=False)


class Transport(httpx.AsyncHTTPTransport):
    """httpx's own, over connections of ours: whatever is patched into its class sees our requests, too."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool


class NoCookies(CookieJar):
    """An API has no use for them, and reading them takes time."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass

    def add_cookie_header(self, request: Any) -> None:
        pass

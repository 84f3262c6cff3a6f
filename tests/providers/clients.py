"""The ways that a request can go out: over connections of our own, with httpx looked at or not; by a user's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest

CLIENTS = {"own": None, "own, watched": None, "httpx": httpx.AsyncClient, "httpx2": httpx2.AsyncClient}
every_client = pytest.mark.parametrize("client", CLIENTS)


@asynccontextmanager
async def http_client(name: str) -> AsyncIterator[Any]:
    make: Any = CLIENTS[name]
    if make is not None:
        async with make() as client:
            yield client
        return
    with pytest.MonkeyPatch.context() as patch:
        if name == "own, watched":
            patch.setattr(httpx.AsyncClient, "send", Watched().send)
        yield None


class Watched:
    """What an instrumentation puts in the place of `AsyncClient.send`: it notes each request and passes it on."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        real = httpx.AsyncClient.send

        async def send(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
            self.seen.append(f"{request.method} {request.url.path}")
            return await real(client, request, **options)

        self.send = send

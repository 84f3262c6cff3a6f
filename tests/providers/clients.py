"""The three ways that a request can go out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest

CLIENTS = {"own": None, "httpx": httpx.AsyncClient, "httpx2": httpx2.AsyncClient}
every_client = pytest.mark.parametrize("client", CLIENTS)


@asynccontextmanager
async def http_client(name: str) -> AsyncIterator[Any]:
    make: Any = CLIENTS[name]
    if make is None:
        yield None
        return
    async with make() as client:
        yield client

# pyright: strict
"""A FastAPI app of a user's with its types."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from aembed import (
    Embedder,
    Match,
    OverloadedError,
    Record,
    Report,
    RetryPolicy,
    Stats,
    Store,
    UnavailableError,
    open_store,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with Embedder("fake:fake", cache_bytes=1_000_000, retry=RetryPolicy(max_outage=20.0)) as embedder:
        app.state.embedder, app.state.store = embedder, open_store("memory:")
        yield
        await store_of(app).aclose()


app = FastAPI(lifespan=lifespan)


def embedder_of(app: FastAPI) -> Embedder:
    embedder = app.state.embedder
    assert isinstance(embedder, Embedder)
    return embedder


def store_of(app: FastAPI) -> Store:
    store = app.state.store
    assert isinstance(store, Store)
    return store


@app.post("/texts")
async def add(texts: list[str]) -> int:
    report: Report = await embedder_of(app).embed_into(store_of(app), [Record(text, text) for text in texts])
    return report.stored


@app.get("/search")
async def search(q: str, k: int = 5) -> list[Match]:
    return await embedder_of(app).search(store_of(app), q, k=k)


@app.get("/vector")
async def vector(q: str) -> list[float]:
    found = await embedder_of(app).embed_query(q, timeout=2.0)
    values: list[float] = found.tolist()
    return values


@app.get("/stats")
async def stats() -> Stats:
    return embedder_of(app).stats()


async def busy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OverloadedError | UnavailableError)
    seconds: float = error.retry_after or 1.0
    return JSONResponse({"detail": f"{request.url.path}: {error}"}, 503, headers={"retry-after": str(seconds)})


app.add_exception_handler(OverloadedError, busy)
app.add_exception_handler(UnavailableError, busy)


async def main(folder: Path) -> None:
    assert folder
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.post("/texts", json=["one", "two"])).json() == 2
        assert (await client.get("/search", params={"q": "two", "k": 1})).json()[0]["id"] == "two"
        assert len((await client.get("/vector", params={"q": "two"})).json()) == 64
        assert (await client.get("/stats")).json()["waiting"] == 0

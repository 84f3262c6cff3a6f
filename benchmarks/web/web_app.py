"""The app of benchmarks/web/__main__.py: `/embed` awaits one embedding, `/plain` answers the same without.

    AEMBED_WEB_URL=http://127.0.0.1:8000/v1 python -m uvicorn --factory benchmarks.web.web_app:with_aembed

`with_openai` is the same app with one call of openai-python each; it runs in the peers' venv, so nothing of ours is
imported here before it is used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from fastapi import FastAPI, HTTPException

MODEL = "text-embedding-3-small"
KEY = "sk-web"

Embed: TypeAlias = Callable[[str], Awaitable[Sequence[float]]]


def app_of(opened: Callable[[], AbstractAsyncContextManager[Embed]]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened() as embed:
            app.state.embed = embed
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/plain")
    async def plain(q: str) -> dict[str, Any]:
        return {"query": q, "dimensions": 1536, "first": 0.0123456789}

    @app.get("/sleep")
    async def slept(q: str) -> dict[str, Any]:
        await asyncio.sleep(0.08)
        return {"query": q, "dimensions": 1536, "first": 0.0123456789}

    @app.get("/embed")
    async def embedded(q: str) -> dict[str, Any]:
        try:
            vector = await app.state.embed(q)
        except Exception as error:
            raise HTTPException(503, f"{type(error).__name__}: {error}") from None
        return {"query": q, "dimensions": len(vector), "first": float(vector[0])}

    @app.get("/stats")
    async def stats() -> str:
        return repr(app.state.embed)

    return app


def with_aembed() -> FastAPI:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Embed]:
        from aembed import Embedder

        async with Embedder(f"openai:{MODEL}", api_key=KEY, base_url=os.environ["AEMBED_WEB_URL"]) as embedder:
            yield embedder.embed_query

    return app_of(opened)


def with_openai() -> FastAPI:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Embed]:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(api_key=KEY, base_url=os.environ["AEMBED_WEB_URL"]) as client:

            async def embed(text: str) -> Sequence[float]:
                reply = await client.embeddings.create(model=MODEL, input=text)
                return reply.data[0].embedding

            yield embed

    return app_of(opened)

"""The lifetimes of web frameworks: real servers, real sockets, one Embedder for each application."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.service.in_process import DIMENSIONS, KEY, MODEL
from tests.service.server import Latency, Server
from tests.stage.web import free_port, serving

MADE = f'Embedder("openai:{MODEL}", dimensions={DIMENSIONS})'
STARLETTE = f"""
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from aembed import Embedder

@asynccontextmanager
async def lifespan(app):
    async with {MADE} as app.state.embedder:
        yield

async def width(request):
    vector = await request.app.state.embedder.embed_query(request.query_params["q"])
    return PlainTextResponse(str(len(vector)))

app = Starlette(routes=[Route("/width", width)], lifespan=lifespan)
"""
LITESTAR = f"""
from contextlib import asynccontextmanager
from litestar import Litestar, MediaType, get
from litestar.datastructures import State
from aembed import Embedder

@asynccontextmanager
async def lifespan(app):
    async with {MADE} as app.state.embedder:
        yield

@get("/width", media_type=MediaType.TEXT)
async def width(q: str, state: State) -> str:
    return str(len(await state.embedder.embed_query(q)))

app = Litestar([width], lifespan=[lifespan], openapi_config=None)
"""
MADE_AT_IMPORT = f"""
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from aembed import Embedder

embedder = {MADE}

async def width(request):
    return PlainTextResponse(str(len(await embedder.embed_query(request.query_params["q"]))))

async def lifespan(app):
    async with embedder:
        yield

from contextlib import asynccontextmanager
app = Starlette(routes=[Route("/width", width)], lifespan=asynccontextmanager(lifespan))
"""
AIOHTTP = f"""
import sys
from aiohttp import web
from aembed import Embedder

EMBEDDER = web.AppKey("embedder", Embedder)

async def lifetime(app):
    async with {MADE} as app[EMBEDDER]:
        yield

async def width(request):
    return web.Response(text=str(len(await request.app[EMBEDDER].embed_query(request.query["q"]))))

app = web.Application()
app.cleanup_ctx.append(lifetime)
app.add_routes([web.get("/width", width)])
print("running on", file=sys.stderr, flush=True)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
print("shutdown complete", file=sys.stderr, flush=True)
"""


async def ask(url: str, client: httpx.AsyncClient) -> list[httpx.Response]:
    async with asyncio.timeout(20):
        while True:
            try:
                await client.get(f"{url}/width?q=is+it+there")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
    return await asyncio.gather(*(client.get(f"{url}/width?q=text+{n % 40}") for n in range(80)))


@pytest.mark.parametrize("name", ["starlette", "litestar", "made at import", "two workers", "aiohttp"])
async def test_an_application_opens_its_embedder_serves_and_closes_it(name: str, tmp_path: Path) -> None:
    apps = {"starlette": STARLETTE, "litestar": LITESTAR, "aiohttp": AIOHTTP}
    (tmp_path / "served.py").write_text(apps.get(name, MADE_AT_IMPORT))
    options = ("--workers", "2") if name == "two workers" else ()
    async with Server(latency=Latency(1.0)) as provider:
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": KEY}
        program = ("served.py", str(free_port())) if name == "aiohttp" else None
        serves = serving("served:app", tmp_path, environment, *options, program=program)
        async with serves as url, httpx.AsyncClient(timeout=20) as client:
            replies = await ask(url, client)
            gone = [asyncio.create_task(client.get(f"{url}/width?q=gone+{n}")) for n in range(20)]
            await asyncio.sleep(0.03)
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
            again = await ask(url, client)
        assert {reply.text for reply in [*replies, *again]} == {str(DIMENSIONS)}
        assert provider.ledger.accepted < 180
        async with asyncio.timeout(5):
            while provider.connections:  # noqa: ASYNC110 - the server sees the end of a connection a moment later
                await asyncio.sleep(0.01)
        assert provider.ledger.in_flight == 0

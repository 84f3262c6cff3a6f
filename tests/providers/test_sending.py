"""An Embedder that is closed waits for what was sent, and for nothing else (row E5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aembed import Embedder, UnavailableError, open_provider
from tests.hostile.jobs import until
from tests.providers.black_hole import black_hole
from tests.providers.clients import every_client, http_client
from tests.providers.test_dialing import SlowNames

CONNECT_SECONDS = 5.0


@pytest.fixture
def nowhere() -> Iterator[str]:
    with black_hole() as place:
        yield place


def embedder_to(url: str, **options: Any) -> Embedder:
    provider = open_provider("openai:model", base_url=url, api_key="sk-x", dimensions=8, allow_http=True, **options)
    return Embedder(provider)


async def closes_at_once(embedder: Embedder) -> None:
    """In the midst of queries none of which can be sent. A connection is waited for during five seconds."""
    queries = [asyncio.create_task(embedder.embed_query(f"question {n}")) for n in range(3)]
    await until(lambda: embedder.in_flight > 0)
    await asyncio.sleep(0.1)
    started = asyncio.get_running_loop().time()
    await embedder.aclose()
    assert asyncio.get_running_loop().time() - started < CONNECT_SECONDS / 2
    for outcome in await asyncio.gather(*queries, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)
        assert "was closed" in str(outcome)


@every_client
async def test_e5_nobody_waits_for_a_connection_that_does_not_come(client: str, nowhere: str) -> None:
    async with http_client(client) as given:
        await closes_at_once(embedder_to(f"http://{nowhere}/v1", http_client=given))


async def test_e5_nor_for_one_to_a_proxy(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{nowhere}")
    await closes_at_once(embedder_to("https://api.test/v1"))


async def test_e5_nor_for_a_name_nor_for_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    names = SlowNames(monkeypatch)
    await closes_at_once(embedder_to("http://slow.test/v1"))
    names.answers.set()
    async with silent() as port:
        await closes_at_once(embedder_to(f"https://127.0.0.1:{port}/v1"))


@every_client
async def test_e5_a_job_that_is_cancelled_lets_go_of_what_was_not_sent(client: str, nowhere: str) -> None:
    async with http_client(client) as given:
        embedder = embedder_to(f"http://{nowhere}/v1", http_client=given)
        job = asyncio.create_task(embedder.embed_documents(["one", "two"]))
        await until(lambda: embedder.in_flight > 0)
        await asyncio.sleep(0.1)
        started = asyncio.get_running_loop().time()
        job.cancel()
        await asyncio.wait([job])
        await until(lambda: embedder.in_flight == 0)
        assert asyncio.get_running_loop().time() - started < CONNECT_SECONDS / 2
        await embedder.aclose()


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """A server that takes connections and says nothing."""
    over = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        over.set()

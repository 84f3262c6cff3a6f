"""`BlockingEmbedder`, which the frameworks' classes are made of: any thread, any event loop, and after a fork."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aembed import ConfigError, Embedder, FakeProvider, Limits
from aembed.integrations.blocking import BlockingEmbedder, as_lists
from tests.service.in_process import DIMENSIONS, KEY, MODEL
from tests.service.server import Server
from tests.service.vectors import vector_of

NAME = f"openai:{MODEL}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as running:
        yield running


def named(server: Server) -> BlockingEmbedder:
    return BlockingEmbedder(NAME, base_url=server.url, api_key=KEY, dimensions=DIMENSIONS)


def is_of(vector: object, text: str) -> bool:
    return np.array_equal(np.asarray(vector), vector_of(text, DIMENSIONS))


async def test_threads_and_event_loops_share_one_embedder(server: Server) -> None:
    embedder, texts = named(server), [f"text {n}" for n in range(40)]

    def in_a_loop_of_its_own(text: str) -> object:
        return asyncio.run(embedder.aembed_query(text))

    def ask_all() -> tuple[list[object], list[object]]:
        with ThreadPoolExecutor(20) as threads:
            return [*threads.map(embedder.embed_query, texts)], [*threads.map(in_a_loop_of_its_own, texts)]

    called, awaited = await asyncio.to_thread(ask_all)
    assert all(map(is_of, called + awaited, texts + texts))
    assert is_of(await embedder.aembed_query("here"), "here")
    found = await embedder.aembed_documents(texts)
    assert all(map(is_of, found, texts))
    assert server.ledger.requests < 81
    await embedder.aclose()


def test_it_may_be_called_where_an_event_loop_runs() -> None:
    embedder = BlockingEmbedder("fake:x")

    async def notebook() -> int:
        return len(embedder.embed_documents(["a", "b"]))

    assert asyncio.run(notebook()) == 2
    assert embedder.embed_query("a").shape == (64,)
    assert "fake:x" in repr(embedder)
    embedder.close()
    with pytest.raises(ConfigError, match="is closed"):
        embedder.embed_query("b")


async def test_an_embedder_that_is_open_in_a_loop_stays_there() -> None:
    async with Embedder(FakeProvider()) as own:
        embedder = BlockingEmbedder(own)
        assert np.array_equal(await embedder.aembed_query("a"), await own.embed_query("a"))
        assert np.array_equal(await asyncio.to_thread(embedder.embed_query, "a"), await own.embed_query("a"))
        with pytest.raises(ConfigError, match="await the async method, or name the model"):
            embedder.embed_query("a")
        assert len(await own.embed_documents(["a"])) == 1


async def test_who_is_cancelled_leaves_and_the_others_are_answered() -> None:
    embedder = BlockingEmbedder(FakeProvider(latency=0.2))
    leaving, staying = (asyncio.create_task(embedder.aembed_query(text)) for text in ("a", "b"))
    await asyncio.sleep(0.05)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await staying).shape == (64,)


def test_it_is_made_of_an_embedder_or_of_its_keywords() -> None:
    with pytest.raises(ConfigError, match="concurrency= is for a model that is named"):
        BlockingEmbedder(Embedder("fake:x"), concurrency=2)
    with pytest.raises(ConfigError, match="concurrency="):
        BlockingEmbedder("fake:x", concurrency=0)


def test_it_goes_to_another_process_by_its_keywords() -> None:
    other = pickle.loads(pickle.dumps(BlockingEmbedder("fake:x", dimensions=8)))
    assert other.embed_query("a").shape == (8,)
    with pytest.raises(TypeError, match="name the model in its place"):
        pickle.dumps(BlockingEmbedder(Embedder("fake:x")))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_after_a_fork_the_child_has_a_loop_of_its_own(server: Server) -> None:
    embedder = named(server)
    assert is_of(await embedder.aembed_query("before"), "before")
    child = os.fork()
    if child == 0:
        try:
            right = is_of(embedder.embed_query("in the child"), "in the child")
            os._exit(0 if right else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert is_of(await embedder.aembed_query("after"), "after")
    await embedder.aclose()


async def test_lists_of_floats_are_made_in_pieces_that_leave_others_time() -> None:
    limits, turns = Limits(2_048, 300_000, 8_191), 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    matrix = (
        await Embedder(FakeProvider(dimensions=1_000, limits=limits)).embed_documents(map(str, range(1_000)))
    ).vectors
    turns = 0
    rows = await as_lists(matrix)
    task.cancel()
    assert turns >= 9
    assert rows == matrix.tolist()

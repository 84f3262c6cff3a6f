"""Row A11: a store whose model has another address, or another name, is moved and buys nothing again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from aembed import (
    ConfigError,
    Embedder,
    MemoryStore,
    PostgresStore,
    SpaceMismatchError,
    SQLiteStore,
    Store,
    open_provider,
)
from benchmarks.faults import Always, Mutate
from benchmarks.server import Server
from tests.cli.command import aembed
from tests.hostile.jobs import KEY, QUICK
from tests.jobs import records, words

MODEL = "text-embedding-3-small"


def at(server: Server, name: str = f"openai:{MODEL}", **options: Any) -> Embedder:
    return Embedder(open_provider(name, base_url=server.url, api_key=KEY, **options), retry=QUICK, max_batch_size=10)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SQLiteStore(tmp_path / "a.db")
        case _:
            return PostgresStore(request.getfixturevalue("database"), table=f"notes_{uuid4().hex}")


@pytest.mark.parametrize("name", [f"openai:{MODEL}", f"tei:{MODEL}"])
async def test_a11_the_same_vectors_at_another_address_or_name_are_taken_over(store: Store, name: str) -> None:
    texts = records(words(100))
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            await embedder.embed_into(store, texts)
            nearest = await embedder.search(store, "word", k=3)
        async with at(after, name) as embedder:
            with pytest.raises(SpaceMismatchError):
                await embedder.embed_into(store, texts)
            similarity = await embedder.move(store)
            assert similarity == pytest.approx(1.0, abs=1e-5)
            assert (bought := sum(after.ledger.times_billed.values())) <= 8
            report = await embedder.embed_into(store, records(words(105)))
            assert (report.unchanged, report.stored) == (100, 5)
            assert sum(after.ledger.times_billed.values()) == bought + 5
            assert (await embedder.plan(store, texts)).unchanged == 100
            assert await embedder.search(store, "word", k=3) == nearest
        async with at(before) as embedder:
            assert await embedder.move(store) == pytest.approx(1.0, abs=1e-5)
            assert (await embedder.embed_into(store, texts)).unchanged == 100
    await store.aclose()


async def test_a11_other_vectors_are_not(store: Store) -> None:
    def turned(reply: dict[str, Any]) -> Any:
        for item in reply["data"]:
            item["embedding"] = list(reversed(item["embedding"]))
        return reply

    async with Server() as before, Server(script=Always(Mutate(turned))) as after:
        async with at(before, encoding="float") as embedder:
            await embedder.embed_into(store, records(words(20)))
        async with at(after, encoding="float") as embedder:
            with pytest.raises(SpaceMismatchError, match=r"of 8 texts that were embedded again one has a cosine"):
                await embedder.move(store)
            with pytest.raises(SpaceMismatchError):
                await embedder.embed_into(store, records(words(20)))
        async with at(before, encoding="float") as embedder:
            assert (await embedder.embed_into(store, records(words(20)))).unchanged == 20
    await store.aclose()


async def test_a11_another_width_is_not() -> None:
    store = MemoryStore()
    async with Server() as server:
        async with at(server) as embedder:
            await embedder.embed_into(store, records(words(20)))
        async with at(server, dimensions=512) as embedder:
            with pytest.raises(SpaceMismatchError, match="has 1536 dimensions, the model gives vectors of 512"):
                await embedder.move(store)


async def test_a11_a_store_without_rows_has_nothing_to_move() -> None:
    async with Embedder("fake:letters") as embedder:
        with pytest.raises(ConfigError, match="the store holds no rows"):
            await embedder.move(MemoryStore())


async def test_a11_a_model_whose_replies_name_it_otherwise_is_moved_too(store: Store) -> None:
    """A router that calls a model by another name from some day on."""

    def renamed(reply: dict[str, Any]) -> Any:
        return reply | {"model": "embedding-router-2"}

    async with Server() as server:
        async with at(server) as embedder:
            await embedder.embed_into(store, records(words(20)))
        server.service.script = Always(Mutate(renamed))
        async with at(server) as embedder:
            with pytest.raises(SpaceMismatchError, match="aembed move"):
                await embedder.embed_into(store, records(words(25)))
        async with at(server) as embedder:
            assert await embedder.move(store) == pytest.approx(1.0, abs=1e-5)
            report = await embedder.embed_into(store, records(words(25)))
        assert (report.unchanged, report.stored) == (20, 5)
        assert np.isfinite(report.seconds)
    await store.aclose()


async def test_a11_the_command(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            await embedder.embed_into(store, records(words(20)))
        await store.aclose()
        command = ("move", "-s", "a.db", "--base-url", after.url)
        ran = await asyncio.to_thread(aembed, tmp_path, *command, env={"OPENAI_API_KEY": KEY})
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"20 rows of a.db are of openai:{MODEL}, 1536 dimensions at {after.url} now (least ")
        assert sum(after.ledger.times_billed.values()) == 8

"""The models in the process: two of them, and a store goes on with the one that made it."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from aembed import Embedder, MemoryStore, Preparation, Record, SpaceMismatchError, open_provider
from aembed.errors import ConfigError
from aembed.protocols import EmbedsPrepared, FollowsStores, Prepares, Provider
from aembed.providers._minilm import weights
from aembed.providers._threads import run_in_thread
from aembed.providers.local import MINILM, USE, LocalModel, LocalProvider
from aembed.stores import open_column
from aembed.types import Space

TEXTS = [
    "How do I install the package?",
    "Type pip install and the name of the package to have it installed.",
    "The cat sat on the mat and looked at the moon.",
]
RECORDS = [Record(str(i), text) for i, text in enumerate(TEXTS)]
GERMAN = [
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person, und niemand darf in Sklaverei gehalten werden.",
    "Alle Menschen sind vor dem Gesetz gleich und haben ohne Unterschied Anspruch auf seinen Schutz.",
]


@pytest.fixture(scope="module", params=[MINILM, USE], ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> LocalModel:
    chosen: LocalModel = request.param
    return chosen


@pytest.fixture(scope="module")
def local(model: LocalModel) -> LocalProvider:
    """One for all of them, each with an event loop of its own: it takes long to load."""
    return LocalProvider(model)


async def test_near_texts_have_near_vectors(local: LocalProvider, model: LocalModel) -> None:
    assert all(isinstance(local, each) for each in (Provider, EmbedsPrepared, Prepares, FollowsStores))
    reply = await local.embed(TEXTS, input_type="document")
    assert reply.matrix.shape == (3, model.dimensions)
    assert reply.matrix.dtype == np.float32
    assert np.allclose(np.linalg.norm(reply.matrix, axis=1), 1, atol=1e-3)
    assert reply.matrix[0] @ reply.matrix[1] > reply.matrix[0] @ reply.matrix[2]
    space = Space("local", model.name, model.dimensions)
    assert (local.space, local.price_usd, reply.usage.tokens) == (space, 0.0, 0)


async def test_the_order_is_kept_across_slices_and_requests(local: LocalProvider) -> None:
    texts = [f"{i} {TEXTS[i % 3]}" for i in range(30)]
    whole = await local.embed(texts, input_type="document")
    parts = await asyncio.gather(*(local.embed(texts[i : i + 5], input_type="query") for i in range(0, 30, 5)))
    assert np.allclose(whole.matrix, np.concatenate([part.matrix for part in parts]), atol=1e-4)


async def test_the_event_loop_lives_meanwhile(local: LocalProvider, model: LocalModel) -> None:
    await local.embed(["load it"], input_type="query")
    gaps, task = [], asyncio.create_task(local.embed(TEXTS * 30, input_type="document"))
    while not task.done():
        start = time.perf_counter()
        await asyncio.sleep(0)
        gaps.append(time.perf_counter() - start)
    assert (await task).matrix.shape == (90, model.dimensions)
    assert sorted(gaps)[-(len(gaps) // 100 + 1)] < 0.05


async def test_documents_of_one_request_go_before_those_of_the_next_and_a_query_between(model: LocalModel) -> None:
    passed: list[str] = []

    async def run_and_note(function: Any, *arguments: Any) -> Any:
        passed.extend(text.split()[0] for text in arguments[0])
        return await run_in_thread(function, *arguments)

    local = LocalProvider(model, run_in_thread=run_and_note)
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(partial(local.embed, [f"{number} {text}" for text in TEXTS * 6], input_type="document"))
        await asyncio.sleep(0)
        tasks.start_soon(partial(local.embed, ["query"], input_type="query"))
    documents = [name for name in passed if name != "query"]
    assert documents == sorted(documents)
    assert passed.index("query") <= 2 * model.texts_per_turn


@pytest.mark.parametrize("text", [" ", "\x00", "\u200b", "x" * 20_000, "日本語", "🙂"])
async def test_strange_texts_have_sound_vectors(local: LocalProvider, text: str) -> None:
    assert np.isfinite((await local.embed([text], input_type="document")).matrix).all()


@pytest.mark.parametrize("name", ["local", "local:use-multilingual-3"])
def test_without_its_packages_it_says_what_to_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for package in MINILM.packages + USE.packages:
        monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ConfigError, match=r'pip install "aembed\[local\]"'):
        open_provider(name)


# a store goes on with the model that made it


async def test_a_store_that_is_new_gets_the_first_model_and_says_how_it_was_made(tmp_path: Path) -> None:
    store = str(tmp_path / "new.db")
    async with Embedder("local") as embedder:
        assert (await embedder.embed_into(store, RECORDS)).stored == 3
        assert (await embedder.embed_into(store, RECORDS)).unchanged == 3
        (best,) = await embedder.search(store, "the moon", k=1)
    assert best.id == "2"
    with closing(sqlite3.connect(store)) as connection:
        (kept,) = connection.execute("SELECT value FROM aembed_meta WHERE key = 'space'").fetchone()
    space = json.loads(kept)
    assert (space["model"], space["dimensions"]) == (MINILM.name, 384)
    assert json.loads(space["preparation"]) == {"arithmetic": "int8-256"}


async def test_a_store_of_the_other_model_is_filled_planned_and_searched_with_that(tmp_path: Path) -> None:
    store = str(tmp_path / "old.db")
    async with Embedder("local:use-multilingual-3") as embedder:
        await embedder.embed_into(store, RECORDS[:2])
        question = await embedder.embed_query("the moon")
    async with Embedder("local") as embedder:
        plan = await embedder.plan(store, RECORDS)
        report = await embedder.embed_into(store, RECORDS)
        (best,) = await embedder.search(store, "the moon", k=1)
        assert [match.id for (match,) in await embedder.search_many(store, ["the moon", TEXTS[0]], k=1)] == ["2", "0"]
        assert embedder.in_flight == 0
        assert embedder.space.model == MINILM.name
        assert len(await embedder.embed_query("the moon")) == 384
    assert (plan.unchanged, report.stored, report.unchanged, best.id) == (2, 1, 2, "2")
    async with Embedder("local:use-multilingual-3") as embedder:
        (again,) = await embedder.search(store, "the moon", k=1)
        assert np.allclose(await embedder.embed_query("the moon"), question, atol=1e-6)
    assert again.score == pytest.approx(best.score, abs=1e-5)
    with pytest.raises(ConfigError, match="is closed"):
        await embedder.search(store, "the moon")


async def test_a_column_goes_on_with_its_own_model(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in TEXTS[:2]])
    column = open_column(str(path), "notes", text="body")
    async with Embedder("local:use-multilingual-3") as embedder:
        await embedder.backfill(column)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO notes (body) VALUES (?)", (TEXTS[2],))
    async with Embedder("local") as embedder:
        assert (await embedder.backfill(column)).stored == 1
        (best,) = await embedder.search(column, "the moon", k=1)
    assert best.id == "3"
    await column.aclose()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT DISTINCT length(embedding) FROM notes").fetchall() == [(4 * 512,)]


async def test_a_model_that_was_named_stays_with_it(tmp_path: Path) -> None:
    store = str(tmp_path / "old.db")
    async with Embedder("local:use-multilingual-3") as embedder:
        await embedder.embed_into(store, RECORDS)
    async with Embedder(f"local:{MINILM.name}") as embedder:
        with pytest.raises(SpaceMismatchError):
            await embedder.embed_into(store, RECORDS)
        with pytest.raises(SpaceMismatchError):
            await embedder.search(store, "the moon")


@pytest.mark.parametrize("is_named", [True, False])
async def test_an_arithmetic_of_a_later_aembed_is_not_mixed_with_this_one(is_named: bool, tmp_path: Path) -> None:
    later = replace(MINILM, preparation=Preparation(arithmetic="int4"))
    store = str(tmp_path / "later.db")
    async with Embedder(LocalProvider(later)) as embedder:
        await embedder.embed_into(store, RECORDS)
    for verb in (Embedder.embed_into, Embedder.plan):
        async with Embedder(LocalProvider(MINILM, is_named=is_named)) as embedder:
            with pytest.raises(ConfigError, match="pip install --upgrade aembed"):
                await verb(embedder, store, RECORDS)
            with pytest.raises(ConfigError, match="pip install --upgrade aembed"):
                await embedder.search(store, "the moon")


async def test_z12_weights_that_are_not_the_known_ones_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHA256", "0" * 64)
    async with Embedder("local") as embedder:
        with pytest.raises(ConfigError, match="other weights"):
            await embedder.embed_into(MemoryStore(), RECORDS)


# other languages


async def _warnings_of(texts: list[str], model: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "aembed"):
        async with Embedder(model) as embedder:
            await embedder.embed_into(MemoryStore(), [Record(str(i), text) for i, text in enumerate(texts)])
    return [record.getMessage() for record in caplog.records]


async def test_texts_of_another_language_are_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"{text} ({i})" for i in range(12) for text in GERMAN]
    (notice,) = await _warnings_of(texts, "local", caplog)
    assert "not English" in notice
    assert "local:use-multilingual-3" in notice
    assert await _warnings_of([*TEXTS, *GERMAN[:2]], "local", caplog) == []
    assert await _warnings_of(GERMAN, f"local:{MINILM.name}", caplog) == []

"""What a vector is: how texts are prepared belongs to a store or a column, and rules its searches and further rows."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from aembed import (
    Backlog,
    BadRequestError,
    ConfigError,
    Embedder,
    FakeProvider,
    Limits,
    MemoryStore,
    PostgresStore,
    Preparation,
    Space,
    SpaceMismatchError,
    SQLiteStore,
    Store,
)
from aembed.core.changes import Fingerprinter
from aembed.core.spaces import merge_spaces, space_as_json
from aembed.preparation import UNPREPARED
from aembed.stores import open_column
from aembed.types import InputType, Reply
from tests.jobs import all_of, records, vector_of, words
from tests.stage.postgres import run_sql

NOMIC = Preparation("search_document: ", "search_query: ")
QUERIES_ONLY = Preparation("", "Represent this: ")
TYPED = Preparation(document_type="passage", query_type="query")
TEXTS = words(12)
# The fields of Space in 0.1.0, which reads a column by `Space(**json)` and nothing else.
FIELDS_OF_0_1_0 = {"provider", "model", "dimensions", "endpoint", "origin"}


def provider_of(preparation: Preparation = NOMIC, **options: Any) -> FakeProvider:
    return FakeProvider(dimensions=8, keep_texts=True, preparation=preparation, **options)


def insisting(preparation: Preparation) -> FakeProvider:
    """One whose user has asked for that preparation, and for no other."""
    provider = provider_of(preparation)
    provider.space = replace(provider.space, preparation=str(preparation) or UNPREPARED)
    return provider


def sent(provider: FakeProvider) -> list[str]:
    return [text for request in provider.ledger.log for text in request.texts]


def asked(provider: FakeProvider) -> set[str]:
    return {request.asked for request in provider.ledger.log}


def prefixed(prefix: str, texts: Sequence[str]) -> list[str]:
    return [prefix + text for text in texts]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def until_sent(provider: FakeProvider) -> None:
    for _ in range(2_000):
        if provider.ledger.requests:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing was sent")


class Places:
    """Makes stores, or columns of a table with twelve texts, of one kind."""

    def __init__(self, kind: str, folder: Path, database: str) -> None:
        self._kind = kind
        self._folder = folder
        self._database = database
        self._opened: list[Store | Backlog] = []

    async def store(self) -> Store:
        name = f"t_{uuid4().hex[:12]}"
        store: Store
        match self._kind:
            case "memory":
                store = MemoryStore()
            case "sqlite":
                store = SQLiteStore(self._folder / f"{name}.db")
            case _:
                store = PostgresStore(self._database, table=name)
        self._opened.append(store)
        return store

    async def table(self) -> str:
        """The URL of a database and a table in it."""
        name = f"t_{uuid4().hex[:12]}"
        if self._kind == "sqlite":
            with closing(sqlite3.connect(self._folder / "users.db")) as connection, connection:
                connection.execute(
                    f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, mark TEXT)"
                )
        else:
            create = f"CREATE TABLE {name} (id serial PRIMARY KEY, content text, embedding vector(8), mark text)"
            await run_sql(self._database, create)
        for text in TEXTS:
            await self.run("INSERT INTO {table} (content) VALUES ('{text}')".replace("{text}", text), name)
        return name

    def column(self, table: str, *, fingerprint: str | None = None) -> Any:
        url = str(self._folder / "users.db") if self._kind == "sqlite" else self._database
        column = open_column(url, table, text="content", fingerprint=fingerprint)
        self._opened.append(column)
        return column

    async def run(self, statement: str, table: str) -> list[Any]:
        """{table} stands for the name."""
        statement = statement.replace("{table}", table)
        if self._kind != "sqlite":
            return await run_sql(self._database, statement)
        with closing(sqlite3.connect(self._folder / "users.db")) as connection, connection:
            return connection.execute(statement).fetchall()

    async def aclose(self) -> None:
        for each in self._opened:
            await each.aclose()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def places(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    database = request.getfixturevalue("database") if request.param == "postgresql" else ""
    places = Places(request.param, tmp_path, database)
    yield places
    await places.aclose()


@pytest.fixture(params=["sqlite", "postgresql"])
async def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    database = request.getfixturevalue("database") if request.param == "postgresql" else ""
    places = Places(request.param, tmp_path, database)
    yield places
    await places.aclose()


# a store


async def test_a25_a_new_store_is_made_as_its_model_wants(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    store, provider = await places.store(), provider_of()
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, records(TEXTS))
        assert report.stored == len(TEXTS)
        assert sorted(sent(provider)) == sorted(prefixed("search_document: ", TEXTS))
        assert report.billed_tokens == provider.ledger.billed_tokens, "what was billed has the prefixes"
        matches = await embedder.search(store, "text 3", k=1)
        assert sent(provider)[-1] == "search_query: text 3"
        again = await embedder.embed_into(store, records(TEXTS))
        assert (again.unchanged, provider.ledger.requests) == (len(TEXTS), 2)
    assert matches[0].text is not None
    assert matches[0].text.startswith("text ")
    rows = await all_of(store.rows())
    assert sorted(row.text for row in rows) == sorted(TEXTS), "the stored text is as it was given"
    assert all(np.array_equal(row.vector, vector_of(f"search_document: {row.text}", 8)) for row in rows)
    space = (await store.info()).space
    assert space is not None
    assert Preparation.parse(space.preparation) == NOMIC
    assert str(NOMIC) in str(space)
    assert warnings_in(caplog) == []


async def test_a25_an_old_store_goes_on_without_prefixes_and_one_warning_says_what_to_do(
    places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    store = await places.store()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.embed_into(store, records(TEXTS))
    provider = provider_of()
    async with Embedder(provider) as embedder:
        assert (await embedder.plan(store, records(TEXTS))).unchanged == len(TEXTS)
        report = await embedder.embed_into(store, [*records(TEXTS), *records(["new"], source=None)][:12])
        assert (report.unchanged, provider.ledger.requests) == (len(TEXTS), 0)
        await embedder.embed_into(store, records([*TEXTS, "a new one"]))
        assert (await embedder.search(store, "text 3", k=1))[0].text == "text 3"
        assert sent(provider) == ["a new one", "text 3"]
    (warning,) = warnings_in(caplog)
    assert "search_document: " in warning
    assert ("aembed index" in warning and "--option 'document_prefix=search_document: '" in warning) or isinstance(
        store, MemoryStore
    )


@pytest.mark.parametrize("default", [Preparation(), Preparation("passage: ", "query: ")], ids=["none", "another"])
async def test_a25_a_stores_own_preparation_rules_whatever_the_model_wants_by_now(
    places: Places, default: Preparation, caplog: pytest.LogCaptureFixture
) -> None:
    store = await places.store()
    async with Embedder(provider_of()) as embedder:
        await embedder.embed_into(store, records(TEXTS))
    provider = provider_of(default)
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, records([*TEXTS, "a new one"]))
        assert (report.unchanged, report.stored) == (len(TEXTS), 1)
        await embedder.search(store, "a question")
        assert sent(provider) == ["search_document: a new one", "search_query: a question"]
        await embedder.embed_query("a question")
        assert sent(provider)[-1] == default.query_prefix + "a question", "without a store it is the model's own"
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("chosen", [Preparation(), Preparation("passage: ", "query: ")], ids=["none", "another"])
async def test_a25_options_that_prepare_otherwise_are_refused_before_money(places: Places, chosen: Preparation) -> None:
    store = await places.store()
    async with Embedder(provider_of()) as embedder:
        await embedder.embed_into(store, records(TEXTS))
    provider = insisting(chosen)
    async with Embedder(provider) as embedder:
        with pytest.raises(SpaceMismatchError, match=r"prepared otherwise"):
            await embedder.embed_into(store, records(TEXTS))
        with pytest.raises(SpaceMismatchError, match=r"leave out the options that prepare texts"):
            await embedder.search(store, "a question")
        with pytest.raises(SpaceMismatchError):
            await embedder.plan(store, records(TEXTS))
    assert provider.ledger.requests == 0


async def test_a25_a_copy_is_not_bought_again_and_one_with_other_prefixes_is(places: Places) -> None:
    old, prepared = await places.store(), await places.store()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.embed_into(old, records(TEXTS))
    async with Embedder(provider_of()) as embedder:
        await embedder.embed_into(prepared, records(TEXTS))
    provider = provider_of()
    async with Embedder(provider) as embedder:
        for source in (old, prepared):
            copy = await places.store()
            assert (await embedder.plan(copy, source)).requests == 0
            assert (await embedder.embed_into(copy, source)).stored == len(TEXTS)
            held, made = (await source.info()).space, (await copy.info()).space
            assert held == made
            assert provider.ledger.requests == 0
    provider = insisting(NOMIC)
    async with Embedder(provider) as embedder:
        new = await places.store()
        assert (await embedder.embed_into(new, old)).stored == len(TEXTS)
        assert sorted(sent(provider)) == sorted(prefixed("search_document: ", TEXTS))
        with pytest.raises(SpaceMismatchError):
            await embedder.embed_into(old, records(TEXTS))
    provider = insisting(QUERIES_ONLY)
    async with Embedder(provider) as embedder:
        new = await places.store()
        assert (await embedder.embed_into(new, old)).stored == len(TEXTS)
        assert provider.ledger.requests == 0, "what is done to queries changes no row"
        await embedder.search(new, "a question")
        assert sent(provider) == ["Represent this: a question"]


async def test_a25_a_move_takes_over_other_queries_and_no_other_documents(places: Places) -> None:
    store = await places.store()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.embed_into(store, records(TEXTS))
    provider = insisting(NOMIC)
    async with Embedder(provider) as embedder:
        with pytest.raises(SpaceMismatchError, match="prepared otherwise"):
            await embedder.move(store)
    assert provider.ledger.requests == 0
    provider = insisting(QUERIES_ONLY)
    async with Embedder(provider) as embedder:
        assert await embedder.move(store) == pytest.approx(1.0, abs=1e-5)
        before = provider.ledger.requests
        assert (await embedder.embed_into(store, records(TEXTS))).unchanged == len(TEXTS)
        assert provider.ledger.requests == before
    provider = provider_of(Preparation())
    async with Embedder(provider) as embedder:
        await embedder.search(store, "a question")
        assert sent(provider) == ["Represent this: a question"]
        await embedder.move(store)
        assert (await store.info()).space == replace(provider.space, preparation=str(QUERIES_ONLY))


async def test_a25_input_types_are_sent_as_the_store_has_them(places: Places) -> None:
    store, provider = await places.store(), provider_of(TYPED)
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, records(TEXTS))
        assert asked(provider) == {'{"type":"passage"}'}
        assert sorted(sent(provider)) == sorted(TEXTS)
        await embedder.search(store, "text 3")
        assert provider.ledger.log[-1].asked == '{"type":"query"}'
    plain = Untyped(provider_of(Preparation()))
    async with Embedder(plain) as embedder:
        with pytest.raises(ConfigError, match="embed_prepared"):
            await embedder.embed_into(store, records([*TEXTS, "new"]))
        with pytest.raises(ConfigError, match="embed_prepared"):
            await embedder.search(store, "text 3")
    assert plain.requests == 0


class Eager(FakeProvider):
    """Its own `embed` tells the type that its model wants, as those of services with such a field do."""

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        return await self.embed_prepared(texts, input_type=input_type, preparation=self.preparation)

    async def embed_prepared(self, texts: Sequence[str], *, input_type: InputType, preparation: Preparation) -> Reply:
        return await self._embed(texts, input_type, preparation.asks(input_type))


async def test_a25_an_old_store_goes_on_without_input_types(places: Places) -> None:
    store = await places.store()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.embed_into(store, records(TEXTS))
    provider = Eager(dimensions=8, preparation=TYPED)
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, records([*TEXTS, "a new one"]))
        assert (await embedder.search(store, "text 3", k=1))[0].text == "text 3"
        assert asked(provider) == {""}
        await embedder.embed_documents(["a text"])
        await embedder.embed_query("a text")
    assert asked(provider) == {"", '{"type":"passage"}', '{"type":"query"}'}


class Untyped:
    """A provider of a user's own, which knows of no preparation."""

    def __init__(self, inner: FakeProvider) -> None:
        self._inner = inner
        self.space, self.limits, self.price_usd, self.requests = inner.space, inner.limits, 0.0, 0

    async def embed(self, texts: Sequence[str], *, input_type: Any) -> Reply:
        self.requests += 1
        return await self._inner.embed(texts, input_type=input_type)

    async def aclose(self) -> None:
        pass


async def test_a25_a_store_with_a_preparation_refuses_an_aembed_that_knows_none(tmp_path: Path, database: str) -> None:
    """0.1.0 compares the version that a store keeps with 1. SQLite's is 3 in any case, for the runs of its keys."""
    sqlite, postgresql = SQLiteStore(tmp_path / "a.db"), PostgresStore(database, table=f"t_{uuid4().hex[:8]}")
    for preparation, version in ((Preparation(), 1), (NOMIC, 2), (Preparation(), 1)):
        provider = insisting(preparation)
        async with Embedder(provider) as embedder:
            for store in (sqlite, postgresql):
                await embedder.embed_into(store, records(TEXTS))
                space = (await store.info()).space
                assert space is not None
                assert (set(space_as_json(space)) == FIELDS_OF_0_1_0) is (version == 1)
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
            held = connection.execute("SELECT value FROM aembed_meta WHERE key = 'schema_version'").fetchone()
        assert held == ("3",)
        read = f"SELECT value::text FROM {postgresql._table.table}_meta WHERE key = 'schema_version'"  # noqa: S608
        assert await run_sql(database, read) == [(str(version),)]
        for store in (sqlite, postgresql):
            await store.delete([record.id for record in records(TEXTS)])
    await sqlite.aclose()
    await postgresql.aclose()


async def test_a25_two_jobs_that_prepare_otherwise_do_not_fill_one_store(tmp_path: Path) -> None:
    """The second finds no rows yet and makes the store its own; the first writes no late vectors into it."""
    first, second = SQLiteStore(tmp_path / "a.db"), SQLiteStore(tmp_path / "a.db")
    slow = FakeProvider(dimensions=8, latency=0.2)
    async with Embedder(slow) as embedder, Embedder(provider_of()) as other:
        job = asyncio.create_task(embedder.embed_into(first, records(TEXTS)))
        await until_sent(slow)
        await other.embed_into(second, records(TEXTS))
        with pytest.raises(SpaceMismatchError):
            await job
    rows = await all_of(second.rows())
    assert all(np.array_equal(row.vector, vector_of(f"search_document: {row.text}", 8)) for row in rows)
    await first.aclose()
    await second.aclose()


# a column


@pytest.mark.parametrize("fingerprint", [None, "mark"])
async def test_a25_a_new_column_is_made_as_its_model_wants(tables: Places, fingerprint: str | None) -> None:
    table, provider = await tables.table(), provider_of()
    column = tables.column(table, fingerprint=fingerprint)
    async with Embedder(provider) as embedder:
        assert (await embedder.backfill(column)).stored == len(TEXTS)
        assert sorted(sent(provider)) == sorted(prefixed("search_document: ", TEXTS))
        assert (await embedder.search(column, "text 3", k=1))[0].text is not None
        assert sent(provider)[-1] == "search_query: text 3"
        before = provider.ledger.requests
        assert (await embedder.backfill(column)).stored == 0
        assert provider.ledger.requests == before
        await tables.run("UPDATE {table} SET content = 'edited' WHERE id = 2", table)
        assert (await embedder.backfill(column)).stored == (fingerprint is not None)
    space = await column.space()
    assert Preparation.parse(space.preparation) == NOMIC
    with pytest.raises(TypeError, match="preparation"):
        _Space010(**space_as_json(space))


class _Space010:
    """Space as 0.1.0 has it: with a key that it does not know it raises, before anything is sent."""

    def __init__(
        self, provider: str, model: str, dimensions: int | None = None, endpoint: str = "", origin: str = ""
    ) -> None: ...


@pytest.mark.parametrize("fingerprint", [None, "mark"])
async def test_a25_an_old_column_goes_on_without_prefixes(
    tables: Places, fingerprint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    table = await tables.table()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.backfill(tables.column(table, fingerprint=fingerprint))
    provider, column = provider_of(), tables.column(table, fingerprint=fingerprint)
    await tables.run("INSERT INTO {table} (content) VALUES ('a new one')", table)
    async with Embedder(provider) as embedder:
        assert (await embedder.backfill(column)).stored == 1
        assert (await embedder.search(column, "text 3", k=1))[0].text == "text 3"
    assert sent(provider) == ["a new one", "text 3"]
    (warning,) = warnings_in(caplog)
    assert "aembed backfill" in warning
    assert "--vector embedding_new --create-columns" in warning
    refused = insisting(NOMIC)
    async with Embedder(refused) as embedder:
        with pytest.raises(SpaceMismatchError, match="prepared otherwise"):
            await embedder.backfill(column)
        with pytest.raises(SpaceMismatchError, match="prepared otherwise"):
            await embedder.move(column)
        with pytest.raises(SpaceMismatchError):
            await embedder.search(column, "text 3")
    assert refused.ledger.requests == 0


async def test_a25_a_column_of_which_nothing_is_known_goes_on_without_prefixes(tables: Places) -> None:
    """Somebody has filled it, and what it is for was never kept, or is lost."""
    table = await tables.table()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.backfill(tables.column(table))
    kept = "aembed_columns" if tables._kind == "sqlite" else "aembed.columns"
    await tables.run("DELETE FROM {kept} WHERE table_name = '{table}'".replace("{kept}", kept), table)
    await tables.run("UPDATE {table} SET embedding = NULL WHERE id > 6", table)
    provider = provider_of()
    async with Embedder(provider) as embedder:
        assert (await embedder.backfill(tables.column(table))).stored == 6
        await embedder.search(tables.column(table), "a question")
    assert sorted(sent(provider)) == sorted([*TEXTS[6:], "a question"])


async def test_a25_a_columns_fingerprint_tells_how_its_text_was_prepared(tables: Places) -> None:
    table = await tables.table()
    marks = []
    for preparation in (Preparation(), QUERIES_ONLY, NOMIC, Preparation("passage: ", "query: ")):
        provider = insisting(preparation)
        await tables.run("UPDATE {table} SET embedding = NULL", table)
        async with Embedder(provider) as embedder:
            await embedder.backfill(tables.column(table, fingerprint="mark"))
        marks.append(str((await tables.run("SELECT mark FROM {table} WHERE id = 1", table))[0][0]))
    assert marks[0] == marks[1], "what is done to queries changes no row"
    assert len(set(marks)) == 3
    column = tables.column(table, fingerprint="mark")
    assert await column.count() == 0
    await column.aclose()


async def test_a25_a_move_of_a_column_takes_over_other_queries(tables: Places) -> None:
    table = await tables.table()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.backfill(tables.column(table, fingerprint="mark"))
    provider, column = insisting(QUERIES_ONLY), tables.column(table, fingerprint="mark")
    async with Embedder(provider) as embedder:
        await embedder.move(column)
        before = provider.ledger.requests
        assert (await embedder.backfill(column)).stored == 0
        assert provider.ledger.requests == before
        await embedder.search(column, "a question")
    assert sent(provider)[-1] == "Represent this: a question"


class OwnBacklog:
    """A column of a kind of its own, which keeps nothing of what it is for."""

    def __init__(self) -> None:
        self.filled: dict[str, Any] = {}

    async def prepare(self, space: Space) -> Space:
        return space

    async def pending(self, limit: int | None = None) -> Any:
        for record in records(TEXTS):
            if record.id not in self.filled:
                yield record

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Any) -> int:
        self.filled.update(zip(ids, matrix, strict=True))
        return len(ids)

    async def count(self) -> int:
        return len(TEXTS) - len(self.filled)

    async def search(self, vector: Any, k: int, *, where: Any = None) -> list[Any]:
        return []

    async def aclose(self) -> None:
        pass


async def test_a25_a_column_that_cannot_tell_next_time_is_not_prepared_unasked() -> None:
    provider, backlog = provider_of(), OwnBacklog()
    async with Embedder(provider) as embedder:
        await embedder.backfill(backlog)
        await embedder.search(backlog, "a question")
    assert sorted(sent(provider)) == sorted([*TEXTS, "a question"])
    provider, backlog = insisting(NOMIC), OwnBacklog()
    async with Embedder(provider) as embedder:
        await embedder.backfill(backlog)
        await embedder.search(backlog, "a question")
    assert sorted(sent(provider)) == sorted([*prefixed("search_document: ", TEXTS), "search_query: a question"])


# without a store, and on its way


async def test_a25_without_a_store_texts_are_prepared_as_the_model_wants() -> None:
    provider = provider_of()
    async with Embedder(provider) as embedder:
        found = await embedder.embed_documents(["a text"])
        vector = await embedder.embed_query("a text")
        async with embedder.stream(["another"]) as results:
            streamed = await all_of(results)
    assert sent(provider) == ["search_document: a text", "search_query: a text", "search_document: another"]
    assert np.array_equal(found.vectors[0], vector_of("search_document: a text", 8))
    assert not np.array_equal(found.vectors[0], vector)
    assert streamed[0].text == "another"


@pytest.mark.parametrize("preparation", [NOMIC, TYPED], ids=["prefixes", "types"])
async def test_a25_a_text_on_its_way_as_a_document_does_not_serve_as_a_query(preparation: Preparation) -> None:
    provider = provider_of(preparation, latency=0.1)
    async with Embedder(provider) as embedder:
        job = asyncio.create_task(embedder.embed_documents(["text"]))
        await until_sent(provider)
        vector, found = await embedder.embed_query("text"), await job
        assert not np.array_equal(found.vectors[0], vector)
        assert provider.ledger.texts == 2


async def test_a25_queries_for_stores_that_prepare_otherwise_go_together_each_as_its_own() -> None:
    old, new = MemoryStore(), MemoryStore()
    async with Embedder(provider_of(Preparation())) as embedder:
        await embedder.embed_into(old, records(TEXTS))
    async with Embedder(provider_of()) as embedder:
        await embedder.embed_into(new, records(TEXTS))
    provider = provider_of(latency=0.02)
    async with Embedder(provider, cache_bytes=100_000) as embedder:
        for _ in range(2):
            await asyncio.gather(*[embedder.search(store, "text 3") for store in (old, new) for _ in range(5)])
        assert sorted(sent(provider)) == ["search_query: text 3", "text 3"]
        assert embedder.stats().waiting == 0


# the values


def test_a25_no_fingerprint_without_a_preparation_is_another_than_before() -> None:
    """The first one was made by 0.1.0 (tests/made_before has many more)."""
    space = Space("fake", "fake", 8)

    def fingerprint_of(preparation: str, text: str = "A cat sat on the mat.", input_type: Any = "document") -> str:
        prints = Fingerprinter(replace(space, preparation=preparation), input_type, "error", 8_191)
        return prints.make_entry(0, records([text])[0]).fingerprint.hex()

    assert fingerprint_of("") == fingerprint_of(UNPREPARED) == "6b1d86e2b230a72c6b1874f837314af2"
    assert fingerprint_of(str(QUERIES_ONLY)) == fingerprint_of("")
    assert fingerprint_of(str(QUERIES_ONLY), input_type="query") != fingerprint_of("", input_type="query")
    others = [NOMIC, Preparation("passage: "), TYPED, Preparation(dtype="int8"), Preparation(arithmetic="normalized")]
    assert len({fingerprint_of(str(each)) for each in others} | {fingerprint_of("")}) == 6


def test_a25_a_preparation_is_written_in_one_way_and_read_again() -> None:
    odd = Preparation('with "quotes"\n', "日本語: ", dtype="int8")
    assert Preparation.parse(str(odd)) == odd
    assert str(NOMIC) == '{"document_prefix":"search_document: ","query_prefix":"search_query: "}'
    assert str(Preparation()) == ""
    assert not Preparation()
    assert not Preparation.parse(UNPREPARED)
    for unknown in ('{"late_chunking":"yes"}', "[]", "no JSON", '{"dtype":8}'):
        with pytest.raises(ConfigError, match="pip install --upgrade aembed"):
            Preparation.parse(unknown)
    for bad in (7, "\ud800"):
        with pytest.raises(ConfigError, match="query_prefix"):
            Preparation(query_prefix=bad)  # type: ignore[arg-type]


def test_a25_spaces_that_differ_in_preparation_are_different_spaces() -> None:
    plain = Space("ollama", "nomic-embed-text", 768)
    prepared = replace(plain, preparation=str(NOMIC))
    assert merge_spaces(plain, prepared) is None
    assert merge_spaces(prepared, replace(plain, preparation=UNPREPARED)) is None
    assert merge_spaces(prepared, replace(prepared, preparation=str(QUERIES_ONLY))) is None
    assert merge_spaces(prepared, plain) == merge_spaces(prepared, prepared) == prepared, "no opinion: its own rules"
    assert merge_spaces(plain, replace(plain, preparation=UNPREPARED)) == plain
    assert merge_spaces(None, replace(plain, preparation=UNPREPARED)) == plain
    written = '{ "query_prefix": "search_query: ", "document_prefix": "search_document: " }'
    assert merge_spaces(prepared, replace(plain, preparation=written)) == prepared, "the order of its names is none"


@pytest.mark.parametrize("kind", ["store", "column"])
async def test_a25_a_preparation_of_a_later_aembed_is_refused_before_money(tmp_path: Path, kind: str) -> None:
    """It may say what this one would leave out: a field that no Preparation has."""
    path, provider = tmp_path / "a.db", provider_of()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        connection.execute("INSERT INTO notes (content) VALUES ('one')")
    store, column = SQLiteStore(path), open_column(str(path), "notes", text="content")
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, records(TEXTS))
        await embedder.backfill(column)
        with closing(sqlite3.connect(path)) as connection, connection:
            later = "replace(%s, 'document_prefix', 'late_chunking')"
            connection.execute(f"UPDATE aembed_meta SET value = {later % 'value'} WHERE key = 'space'")  # noqa: S608
            connection.execute(f"UPDATE aembed_columns SET space = {later % 'space'}")  # noqa: S608
            connection.execute("UPDATE notes SET embedding = NULL")
        before = provider.ledger.requests
        for verb in (
            (embedder.embed_into(store, records(["new"])), embedder.search(store, "new"), embedder.plan(store, ["new"]))
            if kind == "store"
            else (embedder.backfill(column), embedder.search(column, "new"))
        ):
            with pytest.raises(ConfigError, match="pip install --upgrade aembed"):
                await verb
        assert provider.ledger.requests == before
    await store.aclose()
    await column.aclose()


async def test_a25_a_text_that_its_server_finds_too_long_is_cut_behind_its_prefix() -> None:
    def refused(number: int, texts: Sequence[str]) -> BadRequestError | None:
        if max(map(len, texts)) <= 200:
            return None
        error = BadRequestError("400: too long", status_code=400)
        error.about_length = True
        return error

    provider = provider_of(script=refused)
    async with Embedder(provider, too_long="split") as embedder:
        found = await embedder.embed_documents(["x" * 700])
    assert not found.failures
    answered = [text for request in provider.ledger.log if request.outcome == "answered" for text in request.texts]
    assert all(text.startswith("search_document: ") for text in answered)
    assert sum(len(text.removeprefix("search_document: ")) for text in answered) == 700


@pytest.mark.parametrize("too_long", ["error", "truncate", "split"])
async def test_a25_a_prefix_counts_for_every_limit(too_long: Any) -> None:
    """1 token is 1 byte here: a text that fits by itself does not with its prefix."""
    limits = Limits(max_batch_size=100, max_tokens_per_batch=200, max_tokens_per_text=40, bytes_per_token=1.0)
    provider = provider_of(limits=limits)
    texts = ["a" * 23, "b" * 24, "c" * 60]
    async with Embedder(provider, too_long=too_long) as embedder:
        found = await embedder.embed_documents(texts)
    assert all(text.startswith("search_document: ") and len(text) <= 40 for text in sent(provider))
    assert len(found.failures) == (2 if too_long == "error" else 0)
    own = "".join(sorted(text.removeprefix("search_document: ") for text in sent(provider)))
    assert own == {"error": "a" * 23, "truncate": "a" * 23 + "b" * 22 + "c" * 22, "split": "".join(texts)}[too_long]

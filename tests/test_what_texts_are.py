"""Texts, ids and metadata of the types that people have (rows B6 and B11), over real HTTP."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest

from aembed import (
    BadRequestError,
    Embedded,
    Embedder,
    Failure,
    FakeProvider,
    InputError,
    Limits,
    MemoryStore,
    PostgresStore,
    Record,
    SQLiteColumn,
    SQLiteStore,
    StoreError,
)
from tests.hostile.jobs import at
from tests.jobs import records, words
from tests.service.in_process import DIMENSIONS, KEY, MODEL
from tests.service.server import Server
from tests.service.vectors import vector_of


class Subclass(str):
    """As BeautifulSoup's NavigableString: it holds on to its whole document."""

    __slots__ = ("document",)

    def __new__(cls, text: str) -> Subclass:
        made = super().__new__(cls, text)
        made.document = [text] * 100
        return made

    def __str__(self) -> str:
        raise AssertionError("its own idea of a str is not asked for")


class Shade(str, Enum):  # noqa: UP042 - its str() is not its value
    DARK = "dark"
    LIGHT = "light"


class Colour(StrEnum):
    RED = "red"


TEXTS = [f"text {n}" for n in range(40)]
KINDS: dict[str, Callable[[], Sequence[Any]]] = {
    "numpy": lambda: np.array(TEXTS),
    "numpy of objects": lambda: np.array([np.str_(text) for text in TEXTS], dtype=object),
    "subclass": lambda: [Subclass(text) for text in TEXTS],
    "enum": lambda: [*Shade, *Colour],
    "pandas str": lambda: pd.Series(TEXTS, dtype="string"),
    "pandas objects": lambda: pd.Series([Subclass(text) for text in TEXTS], dtype=object),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_b6_texts_of_any_subclass_of_str_go_over_http(kind: str) -> None:
    async with Server() as server, at(server) as embedder:
        given = KINDS[kind]()
        wanted = [str.__str__(text) for text in given]
        embeddings = await embedder.embed_documents(given)
        assert np.array_equal(embeddings.vectors, [vector_of(text, DIMENSIONS) for text in wanted])
        for text, plain in zip(given[:3], wanted, strict=False):
            assert np.array_equal(await embedder.embed_query(text), vector_of(plain, DIMENSIONS))
        store = MemoryStore()
        rows = [Record(text, text, {text: [text]}, text) for text in given]
        report = await embedder.embed_into(store, rows)
        assert (report.stored, report.failed) == (len(rows), 0)
        held = {row.id: row async for row in store.rows()}
        assert held.keys() == set(wanted)
        for id, row in held.items():
            assert (row.text, row.source, row.metadata) == (id, id, {id: [id]})
            assert {type(row.id), type(row.text), type(row.source)} == {str}
        assert (await embedder.embed_into(store, rows)).unchanged == len(rows)
        assert (await embedder.search(store, given[0], k=1))[0].id == wanted[0]


async def test_b6_a_stream_gives_plain_str_that_keep_nothing_else_alive() -> None:
    given = [Record(Subclass(text), Subclass(text)) for text in TEXTS]
    async with Server() as server, at(server) as embedder, embedder.stream(given) as results:
        async for result in results:
            assert isinstance(result, Embedded)
            assert (type(result.id), type(result.text)) == (str, str)


async def test_b6_the_model_may_be_named_by_an_enum() -> None:
    class Models(StrEnum):
        SMALL = f"openai:{MODEL}"

    class Plain(str, Enum):  # noqa: UP042
        SMALL = f"openai:{MODEL}"

    async with Server() as server:
        for model in (Models.SMALL, Plain.SMALL, np.str_(Models.SMALL.value), Subclass(Models.SMALL.value)):
            async with Embedder(model, base_url=server.url, api_key=KEY, dimensions=DIMENSIONS) as embedder:
                report = await embedder.embed_into(MemoryStore(), records(words(3)))
            assert report.stored == 3


async def test_b6_the_missing_value_of_pandas_fails_alone_by_its_name() -> None:
    async with Embedder("fake:fake") as embedder:
        embeddings = await embedder.embed_documents(pd.Series(["a", None, "b"], dtype="string"))
    assert [failure.index for failure in embeddings.failures] == [1]
    assert str(embeddings.failures[0].error) == "the text of '1' must be a str, not NAType"


# ids


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    match request.param:
        case "memory":
            opened: Any = MemoryStore()
        case "sqlite":
            opened = SQLiteStore(tmp_path / "rows.db")
        case _:
            opened = PostgresStore(request.getfixturevalue("database"), table=f"t_{uuid4().hex}")
    async with aclosing(opened):
        yield opened


UUIDS = [UUID(int=n) for n in range(30)]


@pytest.mark.parametrize("ids", [range(30), [np.int64(n) for n in range(30)], UUIDS], ids=["int", "numpy", "UUID"])
async def test_b11_numbers_and_uuids_are_ids(ids: Sequence[Any], store: Any) -> None:
    given = [Record(id, f"text {n}") for n, id in enumerate(ids)]
    async with Embedder("fake:fake") as embedder:
        report = await embedder.embed_into(store, given)
        assert (report.stored, report.failed) == (30, 0)
        assert {row.id async for row in store.rows()} == {str(id) for id in ids}
        again = await embedder.embed_into(store, given)
        assert (again.unchanged, again.requests) == (30, 0)
        [match] = await embedder.search(store, "text 7", k=1)
        assert match.id == str(ids[7])


async def test_b11_an_int_and_its_text_are_one_id() -> None:
    async with Embedder("fake:fake") as embedder:
        report = await embedder.embed_into(MemoryStore(), [Record(1, "one"), Record("1", "two"), Record("2", "two")])
    assert (report.stored, report.failed) == (2, 1)
    assert "the id '1' was given before" in str(report.failures[0])


@pytest.mark.parametrize("bad", [1.5, True, None, b"7", ("a", 1), np.float64(1)], ids=repr)
async def test_b11_another_id_fails_by_its_type_and_costs_its_neighbours_nothing(bad: Any) -> None:
    async with Embedder("fake:fake") as embedder:
        report = await embedder.embed_into(MemoryStore(), [*records(words(3)), Record(bad, "text")])
    assert (report.stored, report.failed) == (3, 1)
    assert str(report.failures[0].error).endswith(f"an int or a UUID, not {type(bad).__name__}")


# when nothing at all is right


async def test_b11_what_is_wrong_with_every_record_is_raised(store: Any) -> None:
    async with Embedder("fake:fake") as embedder:
        with pytest.raises(
            InputError, match=r"each of the 2,000 texts failed, for one reason: the id must be"
        ) as raised:
            await embedder.embed_into(store, [Record(n + 0.5, f"text {n}") for n in range(2_000)])
    report = raised.value.report
    assert report is not None
    assert (report.inputs, report.failed, report.pending) == (2_000, 2_000, 0)
    assert len(report.failures) == 1_000


WRONG: dict[str, list[Any]] = {
    "no text": [None, None, None, None],
    "numbers": [1, 2, 3, 4],
    "empty": ["", " ", "\n"],
    "rows as dicts": [{"id": n, "text": f"text {n}"} for n in range(12)],
    "ids of bytes": [Record(b"id", f"text {n}") for n in range(12)],  # type: ignore[arg-type]
    "metadata that is no JSON": [Record(f"id{n}", f"text {n}", {"a": object()}) for n in range(11)],
}


@pytest.mark.parametrize("name", WRONG)
async def test_b11_whatever_it_is_and_by_every_verb(name: str, tmp_path: Path) -> None:
    given = WRONG[name]
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        with pytest.raises(InputError, match=f"each of the {len(given)} texts failed") as raised:
            await embedder.embed_into(MemoryStore(), given)
        assert raised.value.report
        assert raised.value.report.failed == len(given)
        if name != "metadata that is no JSON":
            seen: list[Failure] = []

            async def streamed() -> None:
                async with embedder.stream(given) as results:
                    async for result in results:
                        assert isinstance(result, Failure)
                        seen.append(result)

            with pytest.raises(InputError, match="each of the"):
                await streamed()
            assert len(seen) == len(given)
        if not isinstance(given[0], Record):
            with pytest.raises(InputError, match="each of the") as raised:
                await embedder.embed_documents(given)
            assert raised.value.embeddings is not None
            assert [vector is None for vector in raised.value.embeddings] == [True] * len(given)
        plan = await embedder.plan(MemoryStore(), given)
        assert plan.failed == len(given)
    assert provider.ledger.requests == 0


@pytest.mark.parametrize(
    "given",
    [
        ["", ""],
        ["", None, 3],
        ["good", "", "", ""],
        [Record(1.5, "text"), Record("a", ""), Record("b", "")],  # type: ignore[arg-type]
    ],
)
async def test_b11_a_few_or_for_several_reasons_are_failures_as_ever(given: list[Any]) -> None:
    async with Embedder("fake:fake") as embedder:
        report = await embedder.embed_into(MemoryStore(), given)
    assert report.failed == len(given) - (given[0] == "good")


async def test_b11_rows_that_are_there_and_rows_refused_earlier_are_no_mistake() -> None:
    def script(number: int, texts: Sequence[str]) -> Exception | None:
        return BadRequestError("400: bad", status_code=400) if any("bad" in text for text in texts) else None

    store, bad = MemoryStore(), records([f"bad {n}" for n in range(5)])
    async with Embedder(FakeProvider(limits=Limits(1, 300_000, 8_191), script=script), concurrency=1) as embedder:
        await embedder.embed_into(store, [Record("good", "good")])
        report = await embedder.embed_into(store, [Record("better", "better"), *bad])
        assert (report.stored, report.failed) == (1, 5)
        again = await embedder.embed_into(store, bad)
        assert (again.failed, again.refused_earlier) == (5, 5)
        with pytest.raises(BadRequestError, match="each of the 5 texts failed, for one reason: 400: bad"):
            await embedder.embed_into(store, bad, retry_failed=True)


# a column whose rows stay empty


def table_with(path: Path, trigger: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in words(50)])
        connection.execute(trigger)


class Deleting(SQLiteColumn):
    """Somebody deletes rows, or edits them, while their vectors are made."""

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Any) -> int:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(self.statement, (ids[0],))
        return await super().write(ids, texts, matrix)

    path: Path
    statement: str


@pytest.mark.parametrize(
    ("statement", "stored", "failed", "bought"),
    [
        ("DELETE FROM notes WHERE id = ?", 45, 0, 50),
        ("UPDATE notes SET body = body || ' edited' WHERE id = ? AND body NOT LIKE '%edited'", 50, 0, 55),
        ("UPDATE notes SET body = body || ' edited' WHERE id = ?", 45, 5, None),
    ],
)
async def test_d2_a_backfill_that_ends_without_an_error_leaves_nothing_pending(
    statement: str, stored: int, failed: int, bought: int | None, tmp_path: Path
) -> None:
    table_with(tmp_path / "app.db", "SELECT 1")
    provider = FakeProvider(limits=Limits(10, 300_000, 8_191))
    column = Deleting(tmp_path / "app.db", "notes", text="body")
    column.path, column.statement = tmp_path / "app.db", statement
    async with aclosing(column), Embedder(provider, concurrency=1) as embedder:
        report = await embedder.backfill(column)
        assert (report.pending, report.stored + report.failed, report.inputs) == (0, report.inputs, report.inputs)
        if bought is not None:
            assert (report.stored, report.failed, provider.ledger.texts) == (stored, failed, bought)
        else:
            assert report.failed > 0
            assert all(isinstance(failure.error, StoreError) for failure in report.failures)
            assert provider.ledger.texts <= 2 * 50 + 10
        assert await column.count() == report.failed

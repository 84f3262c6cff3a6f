"""Exact names in a column of the user's own table: an index of words is made only when it is asked for."""

from __future__ import annotations

import shlex
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed.errors import ConfigError
from aembed.protocols import SearchesWords
from aembed.stores import Column, IndexesWords, open_column
from tests.stage.postgres import run_sql
from tests.stores.samples import SPACE, unit

QUERY = unit(1, 0, 0, 0)
NAME = "odd {} table"
QUOTED = f'"{NAME}"'
"""Written @t in the statements below."""
COLUMNS = "part TEXT, n INTEGER, content TEXT, lang TEXT, PRIMARY KEY (part, n)"
INSERT = "INSERT INTO @t (part, n, content, lang) VALUES ('a\"b', {}, '{}', 'l{}')"
ROWS = 40
TEXTS = {3: "word3 max_tokens", 4: "word4 max_tokens {here}", 5: "word5 max_tokens"}


@dataclass(frozen=True)
class Table:
    sql: Callable[..., Awaitable[list[Any]]]
    open: Callable[..., Column]


@pytest.fixture(params=["sqlite", "postgresql"])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    """Forty rows with a key of two columns; of three the text holds a name."""
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            place, prefix, vector = f"sqlite:///{tmp_path / 'app.db'}", "", "BLOB"

            async def sql(*statements: str) -> list[Any]:
                with closing(sqlite3.connect(tmp_path / "app.db", timeout=5)) as connection, connection:
                    return [connection.execute(each.replace("@t", QUOTED)).fetchall() for each in statements][-1]
        else:
            place, schema = request.getfixturevalue("database"), f"s_{uuid.uuid4().hex[:12]}"
            prefix, vector = f"{schema}.", "vector(4)"
            await run_sql(place, f"CREATE SCHEMA {schema}")

            async def sql(*statements: str) -> list[Any]:
                given = (each.replace("@t", QUOTED) for each in statements)
                return await run_sql(place, f"SET search_path = {schema}, public", *given)

        def opened(**options: Any) -> Column:
            given = {"text": "content", **options}
            column = open_column(place, prefix + given.pop("table", NAME), **given)
            stack.push_async_callback(column.aclose)
            return column

        await sql(f"CREATE TABLE @t (embedding {vector}, {COLUMNS})")
        for n in range(ROWS):
            await sql(INSERT.format(n, TEXTS.get(n, f"word{n} max"), n % 2))
        yield Table(sql, opened)


async def fill(column: Column, but: Sequence[str] = ()) -> None:
    await column.prepare(SPACE)
    records = [record async for record in column.pending() if record.id not in but]
    matrix = np.array([[1, i, 0, 0] for i in range(len(records))], dtype=np.float32)
    await column.write([each.id for each in records], [each.text for each in records], matrix)


def key(n: int) -> str:
    return f'["a\\"b", {n}]'


async def index(column: Column) -> None:
    assert isinstance(column, IndexesWords)
    await column.index_words()


async def found(column: Column, question: str, **options: Any) -> list[str]:
    assert isinstance(column, SearchesWords)
    await column.prepare_words()
    return [match.id for match in await column.search_words(question, QUERY, 10, **options)]


async def test_without_an_index_it_says_what_to_type(table: Table) -> None:
    column = table.open(where="lang <> '{'")
    await fill(column)
    with pytest.raises(ConfigError, match=r"index_words\(\), or by  aembed backfill") as told:
        await found(column, "max_tokens")
    command = shlex.split(str(told.value).partition("or by  ")[2])
    assert command[:2] == ["aembed", "backfill"]
    assert (command[-1], "lang <> '{'" in command) == ("--index", True)


async def test_it_is_announced_and_not_made_by_saying_so(table: Table) -> None:
    column = table.open()
    await column.prepare(SPACE)
    for _ in range(2):
        lines = await column.preflight(SPACE, index=True)
        assert [line for line in lines if "words for hybrid search" in line], lines
    await index(column)
    assert not [line for line in await column.preflight(SPACE, index=True) if "hybrid" in line]


async def test_filled_rows_are_found_by_their_names(table: Table) -> None:
    column = table.open(where="lang <> '{'")
    await fill(column, but=[key(5)])
    await index(column)
    assert await found(column, "max_tokens") == [key(3), key(4)]
    assert await found(column, "max_tokens", where={"lang": "l0"}) == [key(4)]
    assert await found(column, "max_tokens", where={"lang": None}) == []
    with pytest.raises(ConfigError, match="no column 'gone'"):
        await found(column, "max_tokens", where={"gone": 1})
    assert await found(column, "word7") == [key(7)]
    near = {match.id: match for match in await column.search(QUERY, ROWS)}
    assert isinstance(column, SearchesWords)
    assert await column.search_words("max_tokens", QUERY, 1) == [near[key(3)]]
    other = table.open(where="lang = 'l1'")
    assert await found(other, "max_tokens") == [key(3)]


async def test_what_the_user_writes_is_seen(table: Table) -> None:
    column = table.open()
    await fill(column)
    await index(column)
    await table.sql(
        """UPDATE @t SET content = 'nothing' WHERE n = 3""",
        """DELETE FROM @t WHERE n = 4""",
        """UPDATE @t SET content = 'a latecomer' WHERE n = 9""",
        """INSERT INTO @t (part, n, content, embedding) SELECT 'a"b', 99, 'latecomer, too', embedding
            FROM @t WHERE n = 1""",
        """UPDATE @t SET n = 100 WHERE n = 99""",
    )
    assert await found(column, "max_tokens") == [key(5)]
    assert sorted(await found(column, "latecomer")) == sorted([key(9), key(100)])


async def test_no_row_is_found_whose_vector_is_of_another_text(table: Table) -> None:
    column = table.open(fingerprint="embedded", create_columns=True)
    await fill(column)
    await index(column)
    assert await found(column, "max_tokens") == [key(3), key(4), key(5)]
    await table.sql("""UPDATE @t SET content = content || ' edited' WHERE n = 3""")
    assert await found(column, "max_tokens") == [key(4), key(5)]


async def test_it_is_filled_as_before_once_it_is_indexed(table: Table) -> None:
    column = table.open()
    await index(column)
    await fill(column)
    assert await column.count() == 0
    assert await found(column, "max_tokens") == [key(3), key(4), key(5)]

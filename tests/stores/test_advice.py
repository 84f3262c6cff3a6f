"""What is told of a table that is not as it was named can be done: the tests do it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aembed.errors import ConfigError
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Space
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, new_table

SPACE = Space("fake", "fake", 8)


async def refused(database: str, table: str, **names: Any) -> str:
    """What `prepare` says; `preflight` says the same."""
    named = names if "text_sql" in names else {"text": "content", **names}
    column = PostgresColumn(database, table, **named)
    said = set()
    for question in (column.prepare, column.preflight):
        with pytest.raises(ConfigError) as caught:
            await question(SPACE)
        said.add(str(caught.value))
    await column.aclose()
    (words,) = said
    return words


async def taken(database: str, table: str, **names: Any) -> None:
    ended = await backfilled(database, table, **names)
    assert ended.report is not None
    assert (ended.report.stored, ended.error) == (100, None)


@pytest.mark.parametrize("type", ["real[]", "float8[]", "text", "bit(8)", "sparsevec(8)"])
@pytest.mark.parametrize("name", ["embedding", "vec"])
async def test_t13_a_column_of_another_type(database: str, table: str, type: str, name: str) -> None:
    create = f"CREATE TABLE {{table}} (id int PRIMARY KEY, content text, {name} {type})"
    await new_table(database, table, create=create)
    said = await refused(database, table, vector=name)
    options = re.search(r"\(vector='(\w+)', create_columns=True\)", said)
    assert options is not None
    assert f"--vector {options[1]} --create-columns" in said
    await taken(database, table, vector=options[1], create_columns=True)


@pytest.mark.parametrize("type", ["uuid", "json", "varchar(63)", "bytea GENERATED ALWAYS AS ('x'::bytea) STORED"])
async def test_t13_a_column_that_keeps_no_fingerprint(database: str, table: str, type: str) -> None:
    await new_table(database, table, f"ALTER TABLE {{table}} ADD hash {type}")
    said = await refused(database, table, fingerprint="hash")
    options = re.search(r"\(fingerprint='(\w+)', create_columns=True\)", said)
    assert options is not None
    await taken(database, table, fingerprint=options[1], create_columns=True)


@pytest.mark.parametrize("type", ["varchar(64)", "char(64)"])
async def test_t13_a_column_that_keeps_a_fingerprint(database: str, table: str, type: str) -> None:
    await new_table(database, table, f"ALTER TABLE {{table}} ADD hash {type}")
    await taken(database, table, fingerprint="hash")


async def test_t13_a_text_of_bytes_says_how_it_is_read(database: str, table: str) -> None:
    await new_table(database, table, "ALTER TABLE {table} ALTER content TYPE bytea USING convert_to(content, 'UTF8')")
    said = await refused(database, table)
    option = re.search(r"--text-sql '(.+)' {2}\(text_sql=\)", said)
    assert option is not None
    await taken(database, table, text_sql=option[1].replace("'\"'\"'", "'"))


FAILED_BUILD = (
    "CREATE UNIQUE INDEX {table}_id ON {table} (id)",
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{table}_id'::regclass",
)


async def test_t13_an_index_whose_build_has_failed_makes_no_key(database: str, table: str) -> None:
    create = "CREATE TABLE {table} (id int, content text, embedding vector(8))"
    await new_table(database, table, *FAILED_BUILD, create=create)
    assert "key id" in await refused(database, table, key="id")


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
async def test_t13_a_view_names_the_table_under_it(database: str, table: str, kind: str) -> None:
    await new_table(database, table, f"CREATE {kind} {{table}}_seen AS TABLE {{table}}")
    said = await refused(database, f"{table}_seen")
    assert "view, and vectors are written to tables" in said
    under = re.search(r"\(under it: ([\w.]+)\)", said)
    assert under is not None
    await taken(database, under[1])


async def test_t13_a_sequence_is_no_table(database: str, table: str) -> None:
    await run_sql(database, f"CREATE SEQUENCE {table}")
    assert "is a sequence" in await refused(database, table)


@pytest.mark.parametrize("name", ["Odd name", "odd.name", "UPPER", "lower"])
async def test_t13_a_table_of_another_schema_or_case(database: str, table: str, name: str) -> None:
    await run_sql(database, f"CREATE SCHEMA {table}")
    await new_table(database, f'{table}."{name}{table}"')
    said = await refused(database, f'"{name.lower()}{table}"')
    written = re.search(r"write {2}--table (.+?) {2}\(", said)
    assert written is not None
    await taken(database, written[1])


async def test_t13_a_column_that_is_missing(database: str, table: str) -> None:
    await new_table(database, table, 'ALTER TABLE {table} RENAME content TO "Content"')
    said = await refused(database, table)
    assert "'Content' is another one" in said
    said = await refused(database, table, text="Content", fingerprint="hash")
    assert "--create-columns (create_columns=True) adds it" in said
    await taken(database, table, text="Content", fingerprint="hash", create_columns=True)


@pytest.mark.parametrize("unique", ["slug", "slug, kind"])
async def test_t13_a_table_without_a_primary_key_names_what_is_unique(database: str, table: str, unique: str) -> None:
    create = (
        "CREATE TABLE {table} (slug int, content text, kind int NOT NULL DEFAULT 1, embedding vector(8), seen bytea)"
    )
    await new_table(database, table, f"CREATE UNIQUE INDEX ON {{table}} ({unique})", create=create)
    for key in (None, "kind"):
        said = await refused(database, table, key=key)
        keys = re.findall(r"--key (\w+)", said)
        assert keys == unique.split(", ")
    column = PostgresColumn(database, table, text="content", key=keys)
    await column.prepare(SPACE)
    assert await column.count() == 100
    await column.aclose()


@pytest.mark.parametrize("key", [None, "slug"])
async def test_t13_a_table_in_which_nothing_is_unique_says_how_to_make_a_key(
    database: str, table: str, key: str | None
) -> None:
    create = "CREATE TABLE {table} (slug int, content text, embedding vector(8))"
    await new_table(database, table, create=create)
    said = await refused(database, table, key=key)
    await run_sql(database, said.partition("make one:  ")[2])
    column = PostgresColumn(database, table, text="content", key=key)
    await column.prepare(SPACE)
    assert await column.count() == 100
    await column.aclose()


@pytest.mark.parametrize(
    ("names", "option"),
    [
        ({"where": "id >"}, "where"),
        ({"where": "id"}, "where"),
        ({"where": "id > 1; SELECT 1"}, "where"),
        ({"where": "nothing = 1"}, "where"),
        ({"where": "id = 'x'"}, "where"),
        ({"where": "count(*) > 1"}, "where"),
        ({"text_sql": "content ||"}, "text_sql"),
        ({"text_sql": "titel || content"}, "text_sql"),
        ({"text_sql": "string_agg(content, '')"}, "text_sql"),
        ({"text_sql": "content), (id"}, "text_sql"),
        ({"text_sql": "content /*"}, "text_sql"),
        ({"text_sql": "generate_series(1, id)"}, "text_sql"),
    ],
    ids=str,
)
async def test_t13_sql_of_the_users_own_that_cannot_be_read_is_named(
    database: str, table: str, names: dict[str, str], option: str
) -> None:
    await new_table(database, table)
    said = await refused(database, table, **names)
    assert said.startswith(f"--{option.replace('_', '-')} ({option}=) cannot be read by the server: ")
    assert said.endswith(names[option])


@pytest.mark.parametrize(
    "text_sql", ["content -- the text", "content --", "(SELECT upper(content))", "content || '$1 {x}'"]
)
async def test_t13_sql_of_the_users_own_may_hold_what_sql_may(database: str, table: str, text_sql: str) -> None:
    await new_table(database, table)
    await taken(database, table, text_sql=text_sql, where="id > 0 -- all of them")


async def test_t13_keys_that_stand_twice_by_inheritance(database: str, table: str) -> None:
    child = "CREATE TABLE {table}_child (PRIMARY KEY (id)) INHERITS ({table})"
    rows = "INSERT INTO {table}_child SELECT i, 'child ' || i FROM generate_series(51, 150) AS i"
    await new_table(database, table, child, rows)
    said = await refused(database, table)
    heir = re.search(r"fill those by themselves \((.+?)\)", said)
    assert heir is not None
    await taken(database, heir[1])

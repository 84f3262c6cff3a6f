"""`aembed backfill` of a column that has an index already: what it says, and what it drops and builds again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import aembed
from tests.stage.postgres import sql

INDEXES = "SELECT indexdef FROM pg_indexes WHERE tablename = '{}' AND indexdef LIKE '%hnsw%'"
THERE = "takes in each row as it is written"
OFFER = "--index --rebuild-index  drops it first"


@pytest.fixture
def table(database: str, request: pytest.FixtureRequest) -> str:
    """Of 40 rows, with an index."""
    name = f"notes_{abs(hash(request.node.name)) % 10**9}"
    sql(
        database,
        f"CREATE TABLE {name} (id int PRIMARY KEY, content text, embedding vector(64))",
        f"INSERT INTO {name} SELECT i, 'section ' || i FROM generate_series(1, 40) AS i",  # noqa: S608
        f"CREATE INDEX {name}_hnsw ON {name} USING hnsw (embedding vector_cosine_ops) WITH (m = '5')",
    )
    return name


def fill(database: str, table: str, *flags: str) -> tuple[str, ...]:
    return ("backfill", "--store", database, "--table", table, "--text", "content", "-m", "fake:x", *flags)


def test_t29_an_index_that_is_there_is_told_of_and_stays(database: str, table: str, tmp_path: Path) -> None:
    before = sql(database, INDEXES.format(table))
    for flags in (["--dry-run"], ["--index", "--dry-run"], ["--index", "--rebuild-index", "--dry-run"]):
        ran = aembed(tmp_path, *fill(database, table, *flags))
        assert ran.code == 0, ran.err
        assert f"index {table}_hnsw {THERE}" in ran.err
        assert (OFFER in ran.err) is ("--rebuild-index" not in flags)
        assert sql(database, INDEXES.format(table)) == before
    for flags in ([], ["--index"], ["--index", "--yes"]):
        ran = aembed(tmp_path, *fill(database, table, "--limit", "2", *flags))
        assert ran.code == 0, ran.err
        assert OFFER in ran.err
        assert "dropped" not in ran.err
        assert sql(database, INDEXES.format(table)) == before


def test_t29_nothing_is_offered_where_few_of_the_rows_are_new(database: str, table: str, tmp_path: Path) -> None:
    assert aembed(tmp_path, *fill(database, table, "--limit", "36")).code == 0
    ran = aembed(tmp_path, *fill(database, table))
    assert f"index {table}_hnsw {THERE}" in ran.err
    assert OFFER not in ran.err
    assert THERE not in aembed(tmp_path, *fill(database, table)).err
    for number in (41, 42):
        sql(database, f"INSERT INTO {table} VALUES ({number}, 'section {number}')")  # noqa: S608
        ran = aembed(tmp_path, *fill(database, table, "--index", "--rebuild-index"))
        assert ran.code == 0, ran.err
        assert "dropped" not in ran.err


def test_t29_it_is_dropped_and_built_again_where_that_is_asked_for(database: str, table: str, tmp_path: Path) -> None:
    before = sql(database, INDEXES.format(table))
    ran = aembed(tmp_path, *fill(database, table, "--index", "--rebuild-index"))
    assert ran.code == 0, ran.err
    assert f"dropped: index {table}_hnsw; searches are exact, and slow" in ran.err
    assert ran.err.splitlines()[-1] == "the index is built"
    assert sql(database, INDEXES.format(table)) == before


def test_t29_a_run_that_stops_early_leaves_it_to_the_next_one(database: str, table: str, tmp_path: Path) -> None:
    before = sql(database, INDEXES.format(table))
    ran = aembed(tmp_path, *fill(database, table, "--index", "--rebuild-index", "--max-billed-tokens", "1"))
    assert ran.code == 3, ran.err
    assert f"index {table}_hnsw was dropped and is not built yet" in ran.err
    assert sql(database, INDEXES.format(table)) == []
    column = ("status", "--store", database, "--table", table, "--text", "content")
    assert f"index     {table}_hnsw was dropped and is not built yet" in aembed(tmp_path, *column).out
    assert json.loads(aembed(tmp_path, *column, "--json").out)["dropped_indexes"] == [f"{table}_hnsw"]
    ran = aembed(tmp_path, *fill(database, table))
    assert ran.code == 0, ran.err
    assert f"index {table}_hnsw was dropped by an earlier run and is built once the rows are filled" in ran.err
    assert sql(database, INDEXES.format(table)) == before
    assert "dropped" not in aembed(tmp_path, *column).out


def test_t29_one_that_cannot_be_dropped_is_said_before_paying(database: str, table: str, tmp_path: Path) -> None:
    role = f"r_{table}"
    sql(database, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT, UPDATE ON {table} TO {role}")
    url = database.replace("postgres@", f"{role}@", 1)
    ran = aembed(tmp_path, *fill(url, table))
    assert f"index {table}_hnsw {THERE}" in ran.err
    assert OFFER not in ran.err
    sql(database, f"UPDATE {table} SET embedding = NULL", f"GRANT CREATE ON SCHEMA public TO {role}")  # noqa: S608
    ran = aembed(tmp_path, *fill(url, table, "--index", "--rebuild-index"))
    assert (ran.code, ran.out) == (2, "")
    assert "only the owner" in ran.err
    sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("flags", [["--rebuild-index"], ["--rebuild-index", "--yes"]])
def test_t29_rebuild_goes_with_index(database: str, table: str, tmp_path: Path, flags: list[str]) -> None:
    ran = aembed(tmp_path, *fill(database, table, *flags))
    assert (ran.code, ran.out) == (2, "")
    assert "--rebuild-index goes with  --index" in ran.err

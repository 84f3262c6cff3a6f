"""`aembed backfill --index`: what fails after the money was spent is no mistake of usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import aembed
from tests.stage.postgres import sql

COUNT = "SELECT count(*) FROM {} WHERE embedding IS NOT NULL"


@pytest.fixture
def table(database: str, request: pytest.FixtureRequest) -> str:
    """Partitioned, of 40 rows."""
    name = f"sections_{abs(hash(request.node.name)) % 10**9}"
    sql(
        database,
        f"CREATE TABLE {name} (id int PRIMARY KEY, content text, embedding vector(64)) PARTITION BY HASH (id)",
        f"CREATE TABLE {name}_0 PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        f"CREATE TABLE {name}_1 PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        f"INSERT INTO {name} SELECT i, 'section ' || i FROM generate_series(1, 40) AS i",  # noqa: S608
    )
    return name


def fill(database: str, table: str) -> tuple[str, ...]:
    return ("backfill", "--store", database, "--table", table, "--text", "content", "-m", "fake:x", "--index")


def test_t17_an_index_that_is_not_built_after_paying_is_no_usage(database: str, table: str, tmp_path: Path) -> None:
    ran = aembed(tmp_path, *fill(database, table), "--index-memory", "999999999TB")
    assert ran.code == 3
    assert "the rows are filled, and the index is not built: " in ran.err
    assert ran.out.startswith("40 texts, 40 stored, ")
    assert sql(database, COUNT.format(table)) == [(40,)]
    again = aembed(tmp_path, *fill(database, table), "--index-memory", "64MB")
    assert again.code == 0, again.err
    assert again.err.splitlines()[-1] == "the index is built"
    assert (
        sql(database, f"SELECT FROM pg_indexes WHERE tablename LIKE '{table}%' AND indexdef LIKE '%hnsw%'") == [()] * 3
    )


def test_t17_who_may_not_index_is_told_before_paying(database: str, table: str, tmp_path: Path) -> None:
    role = f"r_{table}"
    sql(database, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT, UPDATE ON {table} TO {role}")
    ran = aembed(tmp_path, *fill(database.replace("postgres@", f"{role}@", 1), table))
    sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert ran.code == 2
    assert "only the owner" in ran.err
    assert sql(database, COUNT.format(table)) == [(0,)]


@pytest.mark.parametrize("flags", [["--index", "--index-memory", "much"], ["--index-memory", "2GB"]])
def test_t14_memory_for_the_index_is_checked_before_paying(
    database: str, table: str, tmp_path: Path, flags: list[str]
) -> None:
    ran = aembed(tmp_path, *fill(database, table)[:-1], *flags)
    assert (ran.code, ran.out) == (2, "")
    assert "--index-memory" in ran.err
    assert sql(database, COUNT.format(table)) == [(0,)]

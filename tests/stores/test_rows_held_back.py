"""Rows that may not be written just now, or not by this role, are not paid for, and not passed over in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from aembed.errors import StoreError
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, filled, new_table
from tests.stores.test_watch import open_transaction

HOLD = "SELECT FROM {table} WHERE id <= 5 FOR UPDATE"
POLICIES = (
    "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY seen ON {table} FOR SELECT TO {role} USING (true)",
    "CREATE POLICY edited ON {table} FOR UPDATE TO {role} USING (id > 5)",
)
SHARES = pytest.mark.parametrize("shares", [True, False], ids=["leases", "alone"])


@pytest.fixture
async def role(database: str, table: str) -> AsyncIterator[str]:
    await new_table(database, table, n=20)
    name = f"r_{table}"
    await run_sql(database, f"CREATE ROLE {name} LOGIN", f"GRANT SELECT, UPDATE ON {table} TO {name}")
    yield name
    await run_sql(database, f"DROP OWNED BY {name}", "DROP SCHEMA IF EXISTS aembed CASCADE", f"DROP ROLE {name}")


async def place_of(database: str, role: str, *, shares: bool) -> str:
    """The URL of that role. `shares`: it may make the schema `aembed`, by which workers share rows."""
    if shares:
        await run_sql(database, f"GRANT CREATE ON DATABASE {database.rpartition('/')[2]} TO {role}")
    return database.replace("postgres@", f"{role}@", 1)


@SHARES
async def test_t50_rows_that_a_transaction_holds_for_long_are_told(
    database: str, table: str, role: str, shares: bool
) -> None:
    place = await place_of(database, role, shares=shares)
    async with open_transaction(database, HOLD.format(table=table)):
        ended = await backfilled(place, table, command_timeout=0.9)
    assert isinstance(ended.error, StoreError)
    assert "stays empty: another transaction holds it locked" in str(ended.error)
    assert ended.report is not None
    assert ended.report.stored == sum(ended.bought.values()) == 15
    assert await filled(database, table) == [*range(6, 21)]


@SHARES
async def test_t50_rows_that_a_transaction_holds_for_a_moment_are_waited_for(
    database: str, table: str, role: str, shares: bool
) -> None:
    place = await place_of(database, role, shares=shares)
    connection = await asyncpg.connect(database)
    # The server itself ends it.
    held = "BEGIN", "SET LOCAL idle_in_transaction_session_timeout = '500ms'", HOLD.format(table=table)
    await connection.execute("; ".join(held))
    ended = await backfilled(place, table, lease_seconds=1.0)
    connection.terminate()
    assert ended.report is not None
    assert (ended.report.stored, ended.error) == (20, None)
    assert set(ended.bought.values()) == {1}


@SHARES
async def test_t50_rows_that_a_policy_hides_from_updates_are_told_and_not_paid_for(
    database: str, table: str, role: str, shares: bool
) -> None:
    place = await place_of(database, role, shares=shares)
    await run_sql(database, *(statement.format(table=table, role=role) for statement in POLICIES))
    ended = await backfilled(place, table)
    assert "stays empty: a policy (row-level security) hides it" in str(ended.error)
    assert ended.report is not None
    assert ended.report.stored == sum(ended.bought.values()) == 15


async def test_t50_a_role_to_which_policies_show_no_row_is_told_so(
    database: str, table: str, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = await place_of(database, role, shares=True)
    await run_sql(database, *(statement.format(table=table, role=role) for statement in (POLICIES[0], POLICIES[2])))
    ended = await backfilled(place, table)
    assert ended.report is not None
    assert ended.report.inputs == 0
    assert "sees no row, and policies (row-level security) may hide them all" in caplog.text

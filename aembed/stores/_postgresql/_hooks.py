"""What may change or drop a row that is written: triggers and rules of the table and of all its parts.

Where the catalog shows none, what the server counts is what it keeps. It is read after the write, in its transaction:
nobody can add a trigger or a rule to a table on which that holds its lock.
"""

from __future__ import annotations

from dataclasses import dataclass

from aembed.errors import StoreError
from aembed.stores._postgresql._database import Connection

# A rule of ev_type '1' is ON SELECT: it makes a view, and no write meets it. The functions left out are those of
# foreign keys (RI_FKey_...) and of deferred unique keys.
FOUND = """WITH RECURSIVE tree AS (
        SELECT pg_catalog.to_regclass($1)::oid AS oid
        UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid)
    SELECT 'trigger' AS kind, t.tgname::text AS name, n.nspname AS schema, c.relname AS table,
        fn.nspname::text || '.' || f.proname::text AS function
    FROM tree JOIN pg_catalog.pg_trigger t ON t.tgrelid = tree.oid JOIN pg_catalog.pg_class c ON c.oid = tree.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
    WHERE t.tgenabled <> 'D' AND NOT (fn.nspname = 'pg_catalog' AND f.proname ~ '^(RI_FKey_|unique_key_recheck)')
        AND NOT (fn.nspname = 'aembed' AND f.proname ~ '^watch_[0-9a-f]{16}$')
    UNION ALL SELECT 'rule', r.rulename, n.nspname, c.relname, NULL
    FROM tree JOIN pg_catalog.pg_rewrite r ON r.ev_class = tree.oid JOIN pg_catalog.pg_class c ON c.oid = tree.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE r.ev_enabled <> 'D' AND r.ev_type <> '1'
    UNION ALL SELECT 'foreign table', c.relname, n.nspname, c.relname, NULL
    FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind NOT IN ('r', 'p')
    ORDER BY 1 DESC, 2, 4"""
"""The triggers of foreign keys and of deferred unique keys change nothing; neither do our own, nor what is disabled."""
MAY_HOOK = """SELECT relhastriggers OR relhasrules OR relhassubclass OR relkind <> 'r' FROM pg_catalog.pg_class
    WHERE oid = pg_catalog.to_regclass($1)"""
"""PostgreSQL itself looks for triggers, rules and parts only where these flags are set; to ask for all took 2 ms."""
# Chosen: what one line has room for; a partitioned table may have a trigger on each of hundreds of partitions.
MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Hook:
    """A trigger, a rule or a foreign table that a write meets."""

    kind: str
    name: str
    schema: str
    table: str
    function: str | None

    def __str__(self) -> str:
        if self.kind == "foreign table":
            return f'foreign table "{self.name}"'
        calls = f", which calls {self.function}()" if self.function else ""
        return f'{self.kind} "{self.name}" on "{self.schema}"."{self.table}"{calls}'


class HookedError(StoreError):
    """The table has hooks, and the write was not one that looks at what became of it: once more, with care."""

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        super().__init__(f"what is written goes through {name_hooks(hooks)}")
        self.hooks = hooks


async def hooks_of(table: str, connection: Connection) -> tuple[Hook, ...]:
    """Of the table of this name, quoted, and of its partitions and the tables that inherit from it."""
    return tuple([Hook(*row) for row in await connection.fetch(FOUND, table)])


async def check_unhooked(table: str, connection: Connection) -> None:
    """Raises HookedError, by which the transaction is rolled back, where a row count is no proof."""
    if await connection.fetchval(MAY_HOOK, table) and (hooks := await hooks_of(table, connection)):
        raise HookedError(hooks)


def name_hooks(hooks: tuple[Hook, ...]) -> str:
    """Those that may be to blame, for a message."""
    rest = len(hooks) - MOST_NAMED
    names = ", or ".join(map(str, hooks[:MOST_NAMED]))
    return f"{names} (or {rest} more)" if rest > 0 else names

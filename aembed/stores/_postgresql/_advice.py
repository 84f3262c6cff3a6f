"""What a user's own table is, where it is not what was said, and what can be done about it: words that can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

import asyncpg

from aembed.errors import ConfigError
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._names import TableName, quote_name

KIND = """SELECT c.oid::bigint AS oid, c.relkind::text AS kind FROM pg_catalog.pg_class c
    WHERE c.oid = pg_catalog.to_regclass($1)"""
# The rule of a view depends on what the view reads, and in pg_depend on the view itself, too, which is left out.
# Chosen: LIMIT 5 here, and 20 for all tables of a schema, keep the message a line that can be read; a schema may have
# thousands.
UNDER = """SELECT DISTINCT n.nspname, c.relname FROM pg_catalog.pg_rewrite r
        JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> r.ev_class
        JOIN pg_catalog.pg_class c ON c.oid = d.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE r.ev_class = $1::bigint::oid AND c.relkind IN ('r', 'p') ORDER BY 1, 2 LIMIT 5"""
NAMESAKES = """SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_catalog.lower(c.relname) = pg_catalog.lower($1) AND c.relkind IN ('r', 'p')
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2 LIMIT 5"""
TABLES = """SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname = coalesce($1, pg_catalog.current_schema()) ORDER BY 1 LIMIT 20"""
KINDS = {"v": "a view", "m": "a materialised view", "f": "a foreign table", "S": "a sequence"}


async def no_table_error(table: TableName, connection: Connection) -> ConfigError:
    """For a name that is not that of a table."""
    found = await connection.fetchrow(KIND, str(table))
    if found is not None:
        what = KINDS.get(found["kind"], "no table")
        under = [_typed_name(*row) for row in await connection.fetch(UNDER, found["oid"])]
        names = f" (under it: {', '.join(under)})" if under else ""
        return ConfigError(
            f"{table} is {what}, and vectors are written to tables: name the table with  --table  (table=){names}; "
            "what else belongs to a text can be read with  --text-sql  (text_sql=)"
        )
    others = [_typed_name(*row) for row in await connection.fetch(NAMESAKES, table.table)]
    if others:
        return ConfigError(f"there is no table {table}; write  --table {others[0]}  (there are {', '.join(others)})")
    there = [name for (name,) in await connection.fetch(TABLES, table.schema)]
    return ConfigError(f"there is no table {table}; the schema has {', '.join(there) or 'no table'}")


def no_column_error(name: str, table: TableName, columns: Sequence[str], *, addable: bool) -> ConfigError:
    has = f"table {table} has no column {name!r}; it has {', '.join(columns)}"
    if near := [column for column in columns if column.lower() == name.lower()]:
        return ConfigError(f"{has}. Names are taken as they are written: {near[0]!r} is another one")
    return ConfigError(f"{has}. --create-columns (create_columns=True) adds it" if addable else has)


def no_vector_error(name: str, shown: str, generated: bool, table: TableName, columns: Collection[str]) -> ConfigError:
    # PostgreSQL has at most 1,600 columns in a table, so that one of these names is free.
    names = ("embedding", f"{name}_vector", *(f"embedding_{number}" for number in range(2, 2_000)))
    free = next(other for other in names if other not in columns)
    return ConfigError(
        f"column {name!r} of {table} is {_kind(shown, generated)}, not a vector that can be filled; fill another "
        f"one, which is added:  --vector {free} --create-columns  (vector={free!r}, create_columns=True)"
    )


def no_text_error(name: str, table: TableName) -> ConfigError:
    sql = f"convert_from({quote_name(name)}, 'UTF8')"
    return ConfigError(
        f"column {name!r} of {table} is bytea, and would be embedded as its hexadecimal digits; say how to read it as "
        f"text:  --text-sql {shlex.quote(sql)}  (text_sql=)"
    )


def no_fingerprint_error(
    name: str, shown: str, generated: bool, table: TableName, columns: Collection[str]
) -> ConfigError:
    free = next(other for other in (f"{name}_{number}" for number in range(2, 2_000)) if other not in columns)
    return ConfigError(
        f"column {name!r} of {table} is {_kind(shown, generated)}, and cannot keep a fingerprint, which is bytea or a "
        f"text of 64 characters; name another one, which is added:  --fingerprint {shlex.quote(free)} "
        f"--create-columns  (fingerprint={free!r}, create_columns=True)"
    )


def _kind(shown: str, generated: bool) -> str:
    return "a generated column" if generated else shown


def no_key_error(table: TableName, key: tuple[str, ...], unique: Sequence[Sequence[str]]) -> ConfigError:
    """`unique` are the columns of the table's unique indexes; `key` is empty where none was named."""
    wrong = f"key {', '.join(key)} of table {table} is not unique" if key else f"table {table} has no primary key"
    if unique:
        flags = "  or  ".join(" ".join(f"--key {name}" for name in names) for names in unique)
        return ConfigError(f"{wrong}; name columns that are unique (key=):  {flags}")
    added = ", ".join(map(quote_name, key))
    make = f"CREATE UNIQUE INDEX ON {table} ({added})" if key else f"ALTER TABLE {table} ADD COLUMN id bigserial"
    return ConfigError(
        f"{wrong}; name columns that are unique with key=, or make one:  {make}{'' if key else ' PRIMARY KEY'}"
    )


async def check_sql(option: str, sql: str, condition: str, table: str, connection: Connection) -> None:
    """Raises ConfigError, with the server's words, for SQL of the user's own that it cannot read."""
    try:
        # With LIMIT 0 the server reads and plans the SQL, and runs it for no row.
        await connection.fetch(f"SELECT FROM {table} AS t WHERE {condition} LIMIT 0")
    # asyncpg derives it from SyntaxOrAccessError (both are of class 42), though no other SQL would cure it.
    except asyncpg.InsufficientPrivilegeError:
        raise
    except (asyncpg.SyntaxOrAccessError, asyncpg.DataError, asyncpg.FeatureNotSupportedError) as error:
        flag = f"--{option.replace('_', '-')}"
        raise ConfigError(f"{flag} ({option}=) cannot be read by the server: {error.args[0]}: {sql}") from None


def _typed_name(schema: str, table: str) -> str:
    """A name as it is typed to us."""
    return ".".join(part if part.isidentifier() else quote_name(part) for part in (schema, table))

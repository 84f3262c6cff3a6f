"""A partial index of the rows of a user's own table that have no vector: to look for some reads none of the others."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from aembed.stores._postgresql._columns import ColumnLayout
from aembed.stores._postgresql._index import TableIndex
from aembed.stores._postgresql._names import quote_name

CREATE = "CREATE INDEX {how} IF NOT EXISTS {name} ON {of} {table} ({keys}) WHERE {vector} IS NULL"
IS_LED_BY = """SELECT EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a
    ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = $1::bigint::oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = $2)"""
"""Whether an index of a table begins with a column."""


@dataclass(frozen=True, slots=True)
class EmptyRows(TableIndex):
    """`keys` and `vector` are quoted."""

    keys: tuple[str, ...]
    vector: str

    @classmethod
    def of(cls, table: ColumnLayout) -> EmptyRows:
        return cls(table.table, table.schema, table.keys, table.vector)

    @property
    def name(self) -> str:
        digest = blake2b(f"{self.table}.{self.vector}".encode(), digest_size=8).hexdigest()
        return quote_name(f"aembed_empty_{digest}")

    def create(self, *, concurrently: bool, only: bool = False) -> str:
        """`only`: of the table without its partitions."""
        return CREATE.format(
            how="CONCURRENTLY" if concurrently else "",
            name=self.name,
            of="ONLY" if only else "",
            table=self.table,
            keys=", ".join(self.keys),
            vector=self.vector,
        )

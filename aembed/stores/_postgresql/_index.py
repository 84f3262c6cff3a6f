"""HNSW indexes for the cosine, and searches that use them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from aembed.errors import ConfigError
from aembed.stores._postgresql._names import quote_name
from aembed.stores._postgresql._wire import Storage

Connection: TypeAlias = Any

MOST_INDEXED = {"vector": 2_000, "halfvec": 4_000}
"""Dimensions that pgvector's HNSW can index."""
# The definition is searched for the column's name, because an index over a cast has no number of a column.
INDEXED = """SELECT EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_am m ON m.oid = c.relam JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisvalid AND m.amname = 'hnsw' AND o.opcname = $2
        AND pg_catalog.strpos(pg_catalog.pg_get_indexdef(i.indexrelid), $3) > 0)"""
WAYS = f"""SELECT {INDEXED.removeprefix("SELECT ")} AS by_index,
    EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisvalid AND i.indpred IS NOT NULL
            AND pg_catalog.starts_with(c.relname, $4)) AS knows_odd,
    CASE WHEN pg_catalog.current_setting('plan_cache_mode', true) IS NOT NULL
        THEN pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true) END"""  # noqa: S608
"""How a column may be searched. A generic plan, which a prepared statement gets after five runs, knows neither how
many rows are wanted nor how many pass a filter: from here to the end of the transaction there is none."""
IS_VALID = """SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid = pg_catalog.to_regclass($1)
    AND indrelid = pg_catalog.to_regclass($2) AND indisvalid)"""
INVALID = """SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
    WHERE i.indexrelid = pg_catalog.to_regclass($1) AND NOT i.indisvalid)"""
CREATE = (
    "CREATE INDEX {concurrently} IF NOT EXISTS {name} ON {only} {table} USING hnsw ({column} {v}.{storage}_cosine_ops)"
)
PROGRESS = """SELECT phase,
        (CASE WHEN tuples_total > 0 THEN tuples_done ELSE coalesce(blocks_done, 0) END)::bigint AS done,
        (CASE WHEN tuples_total > 0 THEN tuples_total ELSE coalesce(blocks_total, 0) END)::bigint AS total
    FROM pg_catalog.pg_stat_progress_create_index WHERE relid = pg_catalog.to_regclass($1)"""
# The order may be relaxed: what is found is scored again in float64 and sorted.
ITERATIVE = "SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = {}"
"""Goes on until k rows pass the filter (pgvector 0.8)."""
# pgvector takes 1 to 1,000 for hnsw.ef_search. Chosen: 100 at the least, where its default is 40: fewer of the true
# neighbours would be found for a small k.
LEAST_CANDIDATES, MOST_CANDIDATES = 100, 1_000
# Chosen: 50 rows of 1,536 floats are 0.3 MB more to read for a search. Smaller, rows that float32 cannot tell apart at
# the last place might be left out.
SHORTLIST = 50
"""Rows beyond the k best that are scored again in float64: the server compares in float32."""
# The query stands in a subquery of its own: as `$1::text::vector` a generic plan would parse it again for each row. It
# comes as text, for which asyncpg needs no codec.
QUERY = "(SELECT $1::text::{v}.vector)"
# pgvector 0.8.6 sums squares in float32, so that its cosine distance is wrong for vectors that are about 1e-19 long or
# shorter, or 1e19 or longer (findings/pgvector-cosine-depends-on-the-length.sh). Those are made 1 long first, which
# turns the inner product into the cosine. BETWEEN would compute the square twice, and width_bucket does not.
EXACT_DISTANCE = f"""CASE WHEN pg_catalog.width_bucket({{vector}} OPERATOR({{v}}.<#>) {{vector}}, -1e30, -1e-30, 1) = 1
    THEN {{vector}} OPERATOR({{v}}.<=>) {QUERY}
    ELSE 1 + ({{v}}.l2_normalize({{vector}}) OPERATOR({{v}}.<#>) {QUERY}) END"""
# A vector that is stored out of line would be fetched once for each time it is named: it is copied first, whole, as no
# vector is longer. OFFSET 0 keeps the planner from writing the copy in its places.
COPIED = (
    "(SELECT t.*, {v}.subvector(t.{column}::{v}.vector, 1, 16000) AS aembed_vector FROM {table} AS t{where} OFFSET 0)"
)
# Computed: PostgreSQL keeps rows of up to some 2,000 bytes whole. Larger, a vector might be fetched twice; smaller, one
# would be copied for nothing.
MOST_INLINE_BYTES = 1_900
# In a table of our own there is an index of such vectors, and of those that are zero, which is empty as a rule: the
# others are right by <=> alone. It is ordered by a column that no other index begins with, so that the planner has no
# other way to the first of them.
ODD = "NOT ({column} OPERATOR({v}.<#>) {column} BETWEEN -1e30 AND -1e-30)"
ODD_PREFIX = "aembed_odd_"
CREATE_ODD = "CREATE INDEX IF NOT EXISTS {name} ON {table} (updated_at) WHERE {odd}"
ANY_ODD = "(SELECT true FROM {table} WHERE {odd} ORDER BY updated_at LIMIT 1)"
Way: TypeAlias = Literal["index", "plain", "exact"]
"""By the index for the cosine; by the operator alone, where it is known which vectors it is wrong for; with care."""
# SET takes no parameters, so that the size is written into the statement: nothing but a size may pass.
_SIZE = re.compile(r"\d+ ?[kMGT]?B")


@dataclass(frozen=True, slots=True)
class TableIndex:
    """An index over a table, whose name, `table`, is quoted. It is in the schema of the table."""

    table: str
    schema: str

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def full_name(self) -> str:
        return f"{quote_name(self.schema)}.{self.name}"


@dataclass(frozen=True, slots=True)
class IndexTarget(TableIndex):
    """Over a column of vectors: `column` quoted, `v` the schema of pgvector, quoted."""

    column: str
    v: str
    storage: Storage
    dimensions: int | None
    is_domain: bool = False
    """The type is a domain: pgvector sees no width of the column, so that an expression with the width is indexed."""

    @property
    def indexed_storage(self) -> Storage:
        return "halfvec" if (self.dimensions or 0) > MOST_INDEXED["vector"] else self.storage

    @property
    def expression(self) -> str:
        """What is indexed: the column, or a cast of it: a halfvec above the 2,000 dimensions of a vector."""
        if self.indexed_storage == self.storage and not self.is_domain:
            return self.column
        return f"({self.column}::{self.v}.{self.indexed_storage}({self.dimensions}))"

    @property
    def name(self) -> str:
        # A digest, because the names of table and column may together be longer than the 63 bytes of a name.
        digest = blake2b(f"{self.table}.{self.column}".encode(), digest_size=8).hexdigest()
        return quote_name(f"aembed_hnsw_{digest}")

    def create(self, *, concurrently: bool, only: bool = False) -> str:
        """`only`: of the table without its partitions. Raises ConfigError for a width that cannot be indexed."""
        if not self.dimensions:
            raise ConfigError(f"{self.column} of {self.table} has no width: ALTER it to vector(DIMENSIONS) first")
        if self.dimensions > MOST_INDEXED["halfvec"]:
            raise ConfigError(f"HNSW indexes at most 4,000 dimensions as halfvec; these are {self.dimensions:,}")
        return CREATE.format(
            concurrently="CONCURRENTLY" if concurrently else "",
            only="ONLY" if only else "",
            name=self.name,
            table=self.table,
            column=self.expression,
            v=self.v,
            storage=self.indexed_storage,
        )

    def nearest(self, condition: str, then: str, way: Way) -> str:
        """The $2 rows, as `t`, that are nearest to the query $1 of those that meet the condition; equals by `then`."""
        where = f" WHERE {condition}" if condition else ""
        rows, vector = f"{self.table} AS t{where}", f"t.{self.column}::{self.v}.vector"
        match way:
            case "index":
                indexed = self.expression.replace(self.column, f"t.{self.column}", 1)
                order = f"{indexed} OPERATOR({self.v}.<=>) $1::text::{self.v}.{self.indexed_storage}"
            case "plain":
                order = f"{vector} OPERATOR({self.v}.<=>) {QUERY.format(v=self.v)}, {then}"
            case "exact":
                if self.storage != "vector" or 4 * (self.dimensions or MOST_INLINE_BYTES) > MOST_INLINE_BYTES:
                    copied = COPIED.format(v=self.v, column=self.column, table=self.table, where=where)
                    rows, vector = f"{copied} AS t", "aembed_vector"
                order = f"{EXACT_DISTANCE.format(v=self.v, vector=vector)}, {then}"
        return f"(SELECT t.* FROM {rows} ORDER BY {order} LIMIT $2) AS t"  # noqa: S608

    @property
    def _odd(self) -> str:
        return ODD.format(column=self.column, v=self.v)

    @property
    def create_odd(self) -> str:
        """Of a table of our own: the index of what the operator is wrong for."""
        name = self.name.replace("aembed_hnsw_", ODD_PREFIX, 1)
        return CREATE_ODD.format(name=name, table=self.table, odd=self._odd)

    @property
    def any_odd(self) -> str:
        """True where the table holds such a vector; NULL where it holds none."""
        return ANY_ODD.format(table=self.table, odd=self._odd)


async def is_built(index: TableIndex, connection: Connection) -> bool:
    """Whether it is there, and whole."""
    return bool(await connection.fetchval(IS_VALID, index.full_name, index.table))


async def is_indexed(target: IndexTarget, connection: Connection) -> bool:
    return bool(await connection.fetchval(INDEXED, *_looked_for(target)))


def _looked_for(target: IndexTarget) -> tuple[str, str, str]:
    return target.table, f"{target.indexed_storage}_cosine_ops", target.column[1:-1].replace('""', '"')


async def find_way(target: IndexTarget, most: int, connection: Connection) -> Way:
    """How the `most` nearest rows are found. Plans of this transaction are custom from now on."""
    found = await connection.fetchrow(WAYS, *_looked_for(target), ODD_PREFIX)
    if found["by_index"]:
        # Enough candidates, and more of them while a filter drops too many.
        await connection.execute(ITERATIVE.format(max(LEAST_CANDIDATES, min(MOST_CANDIDATES, most))))
        return "index"
    return "plain" if found["knows_odd"] else "exact"


def settings(memory: str | None, workers: int | None) -> list[str]:
    """Of one session, while an index is built. Raises ConfigError for a size that is none."""
    if memory is not None and not _SIZE.fullmatch(memory):
        raise ConfigError(f"memory={memory!r} must be a size like '2GB'")
    # A build may take hours, and hosted servers end a statement long before (Supabase after two minutes).
    statements = ["SET statement_timeout = 0"]
    statements += [f"SET maintenance_work_mem = '{memory}'"] if memory else []
    statements += [f"SET max_parallel_maintenance_workers = {int(workers)}"] if workers is not None else []
    return statements


RESET = "RESET statement_timeout; RESET maintenance_work_mem; RESET max_parallel_maintenance_workers"

"""What a user's own table looks like, and the SQL that reads and fills one column of it.

Names go through `quote_name`. The user's own SQL (`where`, `text_sql`) keeps the user's search path; pgvector is
written with its schema. Keys travel as text and are cast to the column's own type, so that any type may be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from json import loads

from aembed.errors import ConfigError
from aembed.stores._postgresql import _advice as advice
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._index import IndexTarget
from aembed.stores._postgresql._names import TableName, quote_name
from aembed.stores._postgresql._tables import EXTENSION, choose_storage, column_type
from aembed.stores._postgresql._wire import Storage
from aembed.stores._postgresql._words import WordTarget

TABLE = """SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = pg_catalog.to_regclass($1) AND c.relkind IN ('r', 'p')"""
COLUMNS = """WITH RECURSIVE base AS (
        SELECT a.attnum, a.atttypid AS type, a.atttypmod AS width FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT b.attnum, t.typbasetype, t.typtypmod FROM base b
            JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype = 'd')
    SELECT a.attname AS name, tn.nspname AS type_schema, t.typname AS type, bn.nspname AS base_schema,
        bt.typname AS base, b.width, t.typcategory::text AS category, a.attgenerated <> '' AS generated,
        a.attgenerated = 'v' AS virtual,
        pg_catalog.format_type(a.atttypid, a.atttypmod) AS shown
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
        JOIN base b ON b.attnum = a.attnum JOIN pg_catalog.pg_type bt ON bt.oid = b.type AND bt.typtype <> 'd'
        JOIN pg_catalog.pg_namespace bn ON bn.oid = bt.typnamespace
    WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
"""`base` is what a domain is over, however many lie between; other types are their own."""
ABSENT = {"type": "vector", "base": "vector", "width": -1, "generated": False}
"""A column that is to be added."""
# A partial index, one over an expression, or one whose build has failed proves nothing about all rows. Columns beyond
# indnkeyatts are those of INCLUDE and no part of the key.
KEYS = """SELECT i.indisprimary AS is_primary, pg_catalog.array_agg(a.attname::text ORDER BY k.place) AS names
    FROM pg_catalog.pg_index i, LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = $1::bigint::oid AND a.attnum = k.number
    WHERE i.indrelid = $1::bigint::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        AND k.place <= i.indnkeyatts
    GROUP BY i.indexrelid, i.indisprimary"""
TIMES = ("timestamptz", "timestamp", "date")
HASH_DIGITS = 64
NUMBERS = ("N", "B")
"""Categories of types that JSON writes without quotes: numbers and booleans."""


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """What the user named. `key` is None for the primary key; `create`: columns that are missing may be added."""

    table: TableName
    text: str | None
    text_sql: str | None
    vector: str
    key: tuple[str, ...] | None
    where: str | None
    fingerprint: str | None
    create: bool = False
    updated_at: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        named = (self.text, self.vector, self.fingerprint, self.updated_at, *(self.key or ()))
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """Parts of SQL, quoted, all of them found in the table, whose alias is `t`."""

    oid: int
    schema: str
    name: str
    keys: tuple[str, ...]
    """Quoted names."""
    key_types: tuple[str, ...]
    key_is_number: tuple[bool, ...]
    types: dict[str, str]
    categories: dict[str, str]
    """By the column's name, as the type of the column, one letter each."""
    vectors: str
    storage: Storage
    dimensions: int | None
    vector: str
    text: str
    text_of_index: str
    """The same without the alias."""
    condition: str
    fingerprint: str | None
    fingerprint_is_bytes: bool
    absent: frozenset[str] = frozenset()
    """Quoted names of columns that are still to be added."""
    is_domain: bool = False
    """Whether the type of the vectors is a domain."""
    copies: bool = True
    """Whether the server knows COPY."""
    is_computed: bool = False
    """Whether the text is made as it is read: an expression of the user's own, or a virtual generated column."""
    prepared: str = ""
    """What stands before a text in its fingerprint: how its vector was prepared (mark_of), in hexadecimal digits."""

    @property
    def table(self) -> str:
        return str(TableName(self.name, self.schema))

    @property
    def target(self) -> IndexTarget:
        return IndexTarget(
            self.table, self.schema, self.vector, self.vectors, self.storage, self.dimensions, self.is_domain
        )

    @property
    def word_target(self) -> WordTarget:
        return WordTarget(self.table, self.schema, self.text_of_index)

    @property
    def key_list(self) -> str:
        return ", ".join(f"t.{key}" for key in self.keys)

    @property
    def id(self) -> str:
        """The key as JSON: `17`, `["a", 3]`."""
        texts = [
            f"t.{key}" if is_number else f"t.{key}::text"
            for key, is_number in zip(self.keys, self.key_is_number, strict=True)
        ]
        if len(texts) == 1:
            return f"pg_catalog.to_jsonb({texts[0]})::text"
        return f"pg_catalog.jsonb_build_array({', '.join(texts)})::text"

    @property
    def hash(self) -> str:
        """What a text is compared by: byte by byte, whatever the collation."""
        return f"pg_catalog.sha256(pg_catalog.convert_to(({self.text})::text, 'UTF8'))"

    @property
    def stored_hash(self) -> str:
        """What the column of the fingerprints holds beside a vector."""
        hashed = self.hash
        if self.prepared:
            text = f"'{self.prepared}' OPERATOR(pg_catalog.||) ({self.text})::text"
            hashed = f"pg_catalog.sha256(pg_catalog.convert_to({text}, 'UTF8'))"
        return hashed if self.fingerprint_is_bytes else f"pg_catalog.encode({hashed}, 'hex')"

    @property
    def is_stale(self) -> str:
        """No vector, or one of another text. A column that is still to be added is empty."""
        if self.absent:
            return "true"
        empty = f"t.{self.vector} IS NULL"
        if self.fingerprint is None:
            return empty
        return f"({empty} OR t.{self.fingerprint} IS DISTINCT FROM {self.stored_hash})"

    @property
    def is_current(self) -> str:
        """The vector is not known to be of an earlier text."""
        if self.fingerprint is None:
            return "true"
        return f"(t.{self.fingerprint} IS NULL OR t.{self.fingerprint} IS NOT DISTINCT FROM {self.stored_hash})"

    @property
    def is_empty(self) -> str:
        """As `is_pending`, of the rows without a vector alone, which a partial index may find."""
        return self._wanted("true" if self.absent else f"t.{self.vector} IS NULL")

    @property
    def is_pending(self) -> str:
        return self._wanted(self.is_stale)

    @property
    def is_keyed(self) -> str:
        """Columns of a unique key that is no primary key may be NULL."""
        return " AND ".join(f"t.{key} IS NOT NULL" for key in self.keys)

    def _wanted(self, condition: str) -> str:
        return f"({self.text}) IS NOT NULL AND {condition} AND {self.is_keyed}{self.condition}"

    def after(self, last: Sequence[str] | None, first_parameter: int) -> str:
        """The rows whose key comes later; the key's values are parameters."""
        if last is None:
            return ""
        return f" AND ({self.key_list}) > ({self.key_parameters(first_parameter)})"

    @property
    def is_key(self) -> str:
        """Parameters: the values of a key, as text."""
        pairs = enumerate(zip(self.keys, self.key_types, strict=True), 1)
        return " AND ".join(f"t.{key} = ${i}::text::{type}" for i, (key, type) in pairs)

    def key_parameters(self, first_parameter: int) -> str:
        """One for each column of the key, from that one on: its value as text."""
        return ", ".join(f"${first_parameter + i}::text::{type}" for i, type in enumerate(self.key_types))

    def given_keys(self, first_parameter: int) -> dict[str, str]:
        """What a statement needs that is given keys: an array for each of their columns, from that parameter on."""
        given = ", ".join(f"${i}::text[]" for i in range(first_parameter, len(self.keys) + first_parameter))
        pairs = zip(self.keys, self.given_names, self.key_types, strict=True)
        is_key = " AND ".join(f"t.{key} = aembed_new.{name}::{type}" for key, name, type in pairs)
        return {"given": given, "names": ", ".join(self.given_names), "is_key": is_key}

    @property
    def given_names(self) -> list[str]:
        """Of the key's columns among rows that are given, whose alias is `aembed_new`."""
        return [f"aembed_key{i}" for i in range(len(self.keys))]

    def additions(self, dimensions: int) -> dict[str, str]:
        """The columns that are still to be added, quoted, and their types. Raises ConfigError for too wide a one."""
        wanted = {
            self.vector: column_type(choose_storage(None, dimensions), dimensions, self.vectors),
            self.fingerprint: "bytea",
        }
        return {name: type for name, type in wanted.items() if name in self.absent}

    def type_of(self, column: str) -> str:
        """Raises ConfigError for a column that the table has not."""
        if column not in self.types:
            raise ConfigError(f"{self.table} has no column {column!r}; it has {', '.join(sorted(self.types))}")
        return self.types[column]


def native(id: str) -> list[str]:
    """The key's values as text, as PostgreSQL casts them."""
    # JSON is a string or a number as it is written where nothing of it is escaped: to parse 2,048 of them took 10 ms.
    if id[:1] != "[" and "\\" not in id:
        return [id[1:-1] if id[:1] == '"' else id]
    # Numbers stay as they are written: a numeric may have more digits than a Python float.
    key = loads(id, parse_int=str, parse_float=str)
    values = key if isinstance(key, list) else [key]
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in values]


async def read_layout(asked: ColumnRequest, connection: Connection) -> ColumnLayout:
    """Raises ConfigError where the table is not as the user said."""
    found = await connection.fetchrow(TABLE, str(asked.table))
    if found is None:
        raise await advice.no_table_error(asked.table, connection)
    columns = {row["name"]: row for row in await connection.fetch(COLUMNS, found["oid"])}
    absent = [name for name in asked.columns if name not in columns]
    for name in absent:
        addable = name in (asked.vector, asked.fingerprint)
        if not (asked.create and addable):
            raise advice.no_column_error(name, asked.table, list(columns), addable=addable)
    if asked.updated_at and (edited := columns[asked.updated_at])["base"] not in TIMES:
        raise ConfigError(f"updated_at: {asked.updated_at} of {asked.table} is {edited['shown']}, which tells no time")
    schema = await connection.fetchval(EXTENSION)
    if schema is None:
        raise ConfigError("the database has no pgvector; CREATE EXTENSION vector, as a role that may")
    vector = columns.get(asked.vector, ABSENT | {"base_schema": schema, "type_schema": schema})
    if vector["base"] not in ("vector", "halfvec") or vector["base_schema"] != schema or vector["generated"]:
        raise advice.no_vector_error(asked.vector, vector["shown"], vector["generated"], asked.table, columns)
    if asked.text is not None and columns[asked.text]["base"] == "bytea":
        raise advice.no_text_error(asked.text, asked.table)
    keys = await _keys(asked, found["oid"], connection)
    types = {name: f"{quote_name(row['type_schema'])}.{quote_name(row['type'])}" for name, row in columns.items()}
    mark = columns.get(asked.fingerprint) if asked.fingerprint else None
    if mark is not None and (mark["generated"] or not _holds_hash(mark["base"], mark["category"], mark["width"])):
        raise advice.no_fingerprint_error(mark["name"], mark["shown"], mark["generated"], asked.table, columns)
    name = str(TableName(found["name"], found["schema"]))
    if asked.text_sql is not None:
        # The line break here, and in the conditions below, ends a comment at the end of the user's SQL, which would
        # swallow the bracket.
        condition = f"pg_catalog.length(({asked.text_sql}\n)::text) > 0"
        await advice.check_sql("text_sql", asked.text_sql, condition, name, connection)
    if asked.where:
        await advice.check_sql("where", asked.where, f"({asked.where}\n)", name, connection)
    return ColumnLayout(
        oid=found["oid"],
        schema=found["schema"],
        name=found["name"],
        keys=tuple(map(quote_name, keys)),
        key_types=tuple(types[key] for key in keys),
        key_is_number=tuple(columns[key]["category"] in NUMBERS for key in keys),
        types=types,
        categories={name: row["category"] for name, row in columns.items()},
        vectors=quote_name(schema),
        storage=vector["base"],
        dimensions=vector["width"] if vector["width"] > 0 else None,
        vector=quote_name(asked.vector),
        is_computed=asked.text is None or columns[asked.text]["virtual"],
        text=f"t.{quote_name(asked.text)}" if asked.text is not None else f"{asked.text_sql}\n",
        text_of_index=quote_name(asked.text) if asked.text is not None else f"{asked.text_sql}\n",
        condition=f" AND ({asked.where}\n)" if asked.where else "",
        fingerprint=quote_name(asked.fingerprint) if asked.fingerprint else None,
        fingerprint_is_bytes=mark is not None and mark["base"] == "bytea",
        absent=frozenset(map(quote_name, absent)),
        is_domain=vector["base"] != vector["type"] or vector["base_schema"] != vector["type_schema"],
    )


def _holds_hash(type: str, category: str, width: int) -> bool:
    """Whether a column holds 32 bytes, or their hexadecimal digits. The width of a text counts 4 bytes of its own."""
    return type == "bytea" or (category == "S" and type != "name" and not -1 < width < HASH_DIGITS + 4)


async def _keys(asked: ColumnRequest, oid: int, connection: Connection) -> tuple[str, ...]:
    found = await connection.fetch(KEYS, oid)
    primary = [tuple(row["names"]) for row in found if row["is_primary"]]
    key = asked.key or (primary[0] if primary else ())
    if not any(set(row["names"]) <= set(key) for row in found):
        raise advice.no_key_error(asked.table, key, [row["names"] for row in found])
    return key

"""What a user's own SQLite table looks like, and the SQL that reads and fills one column of it.

Every name is checked against the table before it is used, and goes through `quote_name`. Columns are written with
the table's alias, because SQLite takes a bare quoted name that does not exist for a string.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json import dumps, loads
from sqlite3 import Connection
from typing import Any

from aembed.errors import ConfigError
from aembed.stores._rules import mark_of
from aembed.stores._sqlite._file import HASH
from aembed.types import Space

# substr, because in LIKE 'sqlite_%' the underscore stands for any character.
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
IS_VIEW = "SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = ?"
# table_xinfo, because table_info leaves generated columns out.
COLUMNS = "SELECT name, pk, hidden FROM pragma_table_xinfo(?)"
UNIQUE_INDEXES = """SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial"""
INDEXED = "SELECT name FROM pragma_index_info(?)"
SELECT = "SELECT {columns} FROM {table} AS t WHERE {condition}"
PAGE = SELECT + " ORDER BY {keys} LIMIT ?"
# COLLATE BINARY: in a column declared NOCASE a text of which only the case was edited would pass for the same.
FILL = "UPDATE {table} AS t SET {filled} = ?{mark} WHERE {is_key} AND {text} COLLATE BINARY IS ?"
CLEAR = """UPDATE {table} AS t SET {filled} = NULL, {marked} = NULL
    WHERE {is_key} AND {vector} IS NOT NULL AND NOT ({is_current})"""
ROWID_NAMES = ("rowid", "_rowid_", "oid")


def quote_name(name: str) -> str:
    """A name as SQL. Raises ConfigError for one that SQLite would cut or cannot read."""
    if not name or "\0" in name or (not name.isprintable() and any("\ud800" <= c <= "\udfff" for c in name)):
        raise ConfigError(f"{name!r} cannot be the name of a table or column; it is empty, or holds NUL or a surrogate")
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class TableNames:
    """The table and columns that the user named. `key` is None for the primary key, else the rowid.

    `create`: the columns of the vectors and of the fingerprints may be added.
    """

    table: str
    text: str
    vector: str
    key: tuple[str, ...] | None
    where: str | None
    create: bool = False
    fingerprint: str | None = None

    @property
    def target(self) -> tuple[str, str]:
        """Table and column: under these the bookkeeping knows it."""
        return self.table, self.vector


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Parts of SQL, quoted, all of them found in the table."""

    table: str
    text: str
    vector: str
    keys: tuple[str, ...]
    columns: frozenset[str]
    filled: str
    """The vector as SET wants it: without the alias."""
    condition: str
    mark: str | None
    """The column of the fingerprints, without the alias."""
    absent: tuple[str, ...]
    """Of the vectors' column and that one what is still to be added, with its type."""
    prepared: str = ""
    """What stands before a text that is hashed: how its vector was prepared (mark_of), in hexadecimal digits."""
    is_utf8: bool = True
    """Whether the file keeps its texts as UTF-8, and not as UTF-16."""

    @property
    def key_list(self) -> str:
        return ", ".join(self.keys)

    @property
    def is_pending(self) -> str:
        return f"{self.text} IS NOT NULL AND {self.is_stale}{self.is_keyed}{self.condition}"

    @property
    def hash(self) -> str:
        # A text that is no UTF-8 is given to no function as a text.
        text = f"CASE typeof({self.text}) WHEN 'text' THEN CAST({self.text} AS BLOB) ELSE {self.text} END"
        value = text if self.is_utf8 else self.text
        return f"{HASH}({value}, '{self.prepared}')" if self.prepared else f"{HASH}({value})"

    @property
    def is_stale(self) -> str:
        """No vector, or one of another text. A column that is still to be added is empty."""
        if self.absent:
            # 1, and not TRUE: SQLite takes that word for a column where the table has one of that name.
            return "1"
        changed = f" OR t.{self.mark} IS NOT {self.hash}" if self.mark else ""
        return f"({self.vector} IS NULL{changed})"

    @property
    def is_current(self) -> str:
        """The vector is not known to be of an earlier text."""
        return f"(t.{self.mark} IS NULL OR t.{self.mark} IS {self.hash})" if self.mark else "1"

    @property
    def is_key(self) -> str:
        return " AND ".join(f"{key} = ?" for key in self.keys)

    def select(self, columns: str, condition: str) -> str:
        return SELECT.format(columns=columns, table=self.table, condition=condition)

    def select_page(self, first: bool) -> str:
        """Keyset pagination: rows after a key, which are the parameters, and LIMIT."""
        condition = self.is_pending + ("" if first else self._after)
        columns = f"{self.key_list}, {self.text}"
        return PAGE.format(columns=columns, table=self.table, condition=condition, keys=self.key_list)

    def select_keyed(self, columns: str, condition: str, after: Sequence[Any]) -> str:
        """A page in the order of the keys. Parameters: those of the condition, the key before, LIMIT."""
        condition = f"{condition}{self.is_keyed}{self._after if after else ''}"
        return PAGE.format(columns=columns, table=self.table, condition=condition, keys=self.key_list)

    @property
    def _after(self) -> str:
        return f" AND ({self.key_list}) > ({', '.join('?' * len(self.keys))})"

    @property
    def is_keyed(self) -> str:
        return "".join(f" AND {key} IS NOT NULL" for key in self.keys)

    def fill(self) -> str:
        """Parameters: the vector, the key, the text that it was made from, compared byte by byte."""
        mark = f", {self.mark} = {self.hash}" if self.mark else ""
        return FILL.format(table=self.table, filled=self.filled, mark=mark, is_key=self.is_key, text=self.text)

    def clear(self) -> str:
        """Parameters: the key. Nothing is done to a vector that is not known to be of an earlier text."""
        parts = {"marked": self.mark, "is_current": self.is_current, "vector": self.vector}
        return CLEAR.format(table=self.table, filled=self.filled, is_key=self.is_key, **parts)

    def samples(self, rows: int) -> Iterator[str]:
        """Key and text of pending rows, from either end of the table; then of some that are filled."""
        columns = f"{self.key_list}, {self.text}"
        yield self.select(columns, f"{self.is_pending} ORDER BY {self.key_list} LIMIT {rows}")
        descending = ", ".join(f"{key} DESC" for key in self.keys)
        yield self.select(columns, f"{self.is_pending} ORDER BY {descending} LIMIT {rows}")
        filled = f"{self.text} IS NOT NULL AND {self.vector} IS NOT NULL{self.is_keyed}{self.condition}"
        yield self.select(columns, f"{filled} ORDER BY {self.key_list} LIMIT {rows}")

    def select_vector(self) -> str:
        """Whether a row has a vector. Parameters as those of `fill`: the vector, the key, the text."""
        return self.select(f"{self.vector} IS ?", f"{self.is_key} AND {self.text} COLLATE BINARY IS ?")

    def select_settled(self) -> str:
        """Whether a row has a text, whether it has that text's vector, and the vector. Parameters: text, key."""
        same = f"{self.text} COLLATE BINARY IS ?{self.condition}"
        return self.select(f"{same}, NOT ({self.is_stale}), {self.vector}", self.is_key)

    def sample(self) -> str:
        """Key, text and vector of filled rows. Parameters: LIMIT."""
        condition = f"{self.vector} IS NOT NULL AND {self.text} IS NOT NULL AND {self.is_current}{self.condition}"
        return self.select(f"{self.key_list}, {self.text}, {self.vector}", f"{condition} LIMIT ?")

    def column(self, name: str) -> str:
        """Raises ConfigError for a column that the table has not."""
        if name not in self.columns:
            raise ConfigError(f"{self.table} has no column {name!r}; it has {', '.join(sorted(self.columns))}")
        return f"t.{quote_name(name)}"


def read_layout(names: TableNames, connection: Connection, space: Space | None = None) -> TableLayout:
    """`space` is that of its vectors. Raises ConfigError where the table is not as the user said."""
    columns = {name: (pk, hidden) for name, pk, hidden in connection.execute(COLUMNS, (_table(names, connection),))}
    types = {names.vector: "BLOB"} | ({names.fingerprint: "TEXT"} if names.fingerprint else {})
    absent = [name for name in types if names.create and name not in columns]
    columns |= dict.fromkeys(absent, (0, 0))
    for name in (names.text, *types, *(names.key or ())):
        if name not in columns and (name in (names.text, *types) or name not in ROWID_NAMES):
            way_out = ". --create-columns (create_columns=True) adds it" if name in types else ""
            has = ", ".join(sorted(columns))
            raise ConfigError(f"table {names.table!r} has no column {name!r}; it has {has}{way_out}")
    for name in types:
        if name == names.text or columns[name][1]:
            raise ConfigError(f"column {name!r} of {names.table!r} cannot be filled: it is the text, or generated")
    if names.fingerprint == names.vector:
        raise ConfigError(f"column {names.vector!r} cannot be the vector and the fingerprint; name another column")
    return TableLayout(
        quote_name(names.table),
        f"t.{quote_name(names.text)}",
        f"t.{quote_name(names.vector)}",
        tuple(_keys(names, columns, connection)),
        frozenset(columns),
        quote_name(names.vector),
        # The line break ends a comment at the end of the user's SQL, which would swallow the bracket.
        f" AND ({names.where}\n)" if names.where else "",
        quote_name(names.fingerprint) if names.fingerprint else None,
        tuple(f"{quote_name(name)} {types[name]}" for name in absent),
        mark_of(space),
        connection.execute("PRAGMA encoding").fetchone()[0] == "UTF-8",
    )


def vector_bytes(table: TableLayout, connection: Connection) -> int | None:
    """Of one vector that is there already."""
    if any(column.startswith(f"{table.filled} ") for column in table.absent):
        return None
    row = connection.execute(table.select(f"length({table.vector})", f"{table.vector} IS NOT NULL LIMIT 1")).fetchone()
    return row[0] if row else None


def vector_width(table: TableLayout, space: Space | None, connection: Connection) -> int | None:
    """Dimensions of its vectors, which are of that space; None where there are none yet."""
    size_bytes = vector_bytes(table, connection)
    if size_bytes is None:
        return None
    return space.dimensions if space and space.dimensions else size_bytes // 4


def _table(names: TableNames, connection: Connection) -> str:
    tables = [name for (name,) in connection.execute(TABLES)]
    if names.table not in tables and connection.execute(IS_VIEW, (names.table,)).fetchone():
        raise ConfigError(
            f"{names.table!r} is a view, and vectors are written to tables: name the table under it with  --table  "
            f"(the file has {', '.join(tables) or 'none'})"
        )
    if names.table not in tables:
        raise ConfigError(f"there is no table {names.table!r}; the file has {', '.join(tables) or 'no table'}")
    return names.table


def _keys(names: TableNames, columns: dict[str, tuple[int, int]], connection: Connection) -> Iterator[str]:
    primary = sorted((pk, name) for name, (pk, _) in columns.items() if pk)
    key = names.key or tuple(name for _, name in primary)
    if not set(key) & set(columns):
        number = next((name for name in ROWID_NAMES if name not in columns), None)
        if number is None:
            raise ConfigError(
                f"table {names.table!r} has no primary key, and columns named {', '.join(ROWID_NAMES)} hide the "
                "numbers of its rows; name columns that are unique with  --key  (key=)"
            )
        yield f"t.{number}"
        return
    unique = [{name for _, name in primary}] if primary else []
    for (index,) in connection.execute(UNIQUE_INDEXES, (names.table,)).fetchall():
        unique.append({name for (name,) in connection.execute(INDEXED, (index,))})
    if not any(each <= set(key) for each in unique):
        raise ConfigError(f"key {', '.join(key)} of table {names.table!r} is not unique; name columns that are")
    yield from (f"t.{quote_name(name)}" for name in key)


def key_as_json(key: Sequence[Any]) -> str:
    """A key as JSON: `17`, `["a", 3]`; bytes as {"hex": "00ff"}."""
    return dumps(key[0] if len(key) == 1 else list(key), ensure_ascii=False, default=_hex)


def _hex(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}


def native(id: str) -> list[Any]:
    """The values that `key_as_json` was given."""
    key = loads(id, object_hook=lambda held: bytes.fromhex(held["hex"]))
    return key if isinstance(key, list) else [key]

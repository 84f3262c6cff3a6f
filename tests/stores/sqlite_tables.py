"""SQLite tables of the user's own that refuse, drop or change what is written, for the tests and the simulation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = "id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, seen TEXT"
ON_UPDATE = "CREATE TRIGGER hooked {when} ON notes WHEN {bad} BEGIN {body}; END"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is done to a table `notes` once it holds its rows. {bad} is a condition on rows as `new.id = 17`, {is_bad}
    one without `new.`; rows of which it is true can keep no vector. `columns` come after those of the table."""

    changes: Sequence[str] = ()
    columns: str = ""
    mended_by: str = "DROP TRIGGER hooked"
    """After which the table takes every row; "" where nothing does."""

    def statements(self, bad: str) -> list[str]:
        return [put(each, bad) for each in self.changes]


def put(statement: str, bad: str) -> str:
    return statement.replace("{bad}", bad).replace("{is_bad}", bad.replace("new.", ""))


def trigger(body: str, when: str = "BEFORE UPDATE", more: str = "") -> Kind:
    condition = f"{{bad}} AND {more}" if more else "{bad}"
    return Kind([ON_UPDATE.replace("{when}", when).replace("{bad}", condition).replace("{body}", body)])


CLEARS = "UPDATE notes SET embedding = NULL WHERE id = new.id"
FULL = "new.embedding IS NOT NULL"
REFUSES: Mapping[str, Kind] = {
    "abort": trigger("SELECT RAISE(ABORT, 'not this one')"),
    "fail": trigger("SELECT RAISE(FAIL, 'not this one')", "AFTER UPDATE"),
    "rollback": trigger("SELECT RAISE(ROLLBACK, 'not this one')"),
    "rollback after": trigger("SELECT RAISE(ROLLBACK, 'not this one')", "AFTER UPDATE"),
    "of no document": trigger("SELECT json_extract('{', '$.a')", more=FULL),
    "of another table": Kind(
        [
            "CREATE TABLE seen (note INTEGER CHECK (note >= 0))",
            "CREATE TRIGGER hooked AFTER UPDATE ON notes BEGIN "
            "INSERT INTO seen SELECT CASE WHEN {bad} THEN -1 ELSE new.id END; END",
        ]
    ),
    "check": Kind(columns=", CHECK (embedding IS NULL OR NOT ({is_bad}))", mended_by=""),
    "generated": Kind(
        columns=", length INTEGER GENERATED ALWAYS AS "
        "(CASE WHEN embedding IS NOT NULL AND {is_bad} THEN abs(-9223372036854775807 - 1) END) STORED",
        mended_by="",
    ),
    "never null": Kind(
        columns=", length INTEGER NOT NULL GENERATED ALWAYS AS "
        "(CASE WHEN embedding IS NULL OR NOT ({is_bad}) THEN 1 END) STORED",
        mended_by="",
    ),
}
"""A row that is written so raises."""
DROPS: Mapping[str, Kind] = {
    "ignore": trigger("SELECT RAISE(IGNORE)"),
    "clears": trigger(CLEARS, "AFTER UPDATE OF embedding", FULL),
    "changes": trigger(
        "UPDATE notes SET embedding = x'00' WHERE id = new.id", "AFTER UPDATE", f"{FULL} AND new.embedding <> x'00'"
    ),
    "cuts": trigger(
        "UPDATE notes SET embedding = substr(embedding, 1, 8) WHERE id = new.id",
        "AFTER UPDATE OF embedding",
        "length(new.embedding) > 8",
    ),
    "edits": trigger("UPDATE notes SET content = content || '!' WHERE id = new.id", "AFTER UPDATE OF embedding", FULL),
    "edits before": trigger("UPDATE notes SET content = content || '!' WHERE id = new.id", "BEFORE UPDATE", FULL),
    "deletes": trigger("DELETE FROM notes WHERE id = new.id", "AFTER UPDATE OF embedding", FULL),
    "moves": trigger("UPDATE notes SET id = -new.id WHERE id = new.id", "AFTER UPDATE OF embedding", FULL),
    "by way of another table": Kind(
        [
            "CREATE TABLE log (note INTEGER)",
            f"CREATE TRIGGER clearing AFTER INSERT ON log BEGIN {CLEARS.replace('new.id', 'new.note')}; END",
            "CREATE TRIGGER hooked AFTER UPDATE OF embedding ON notes WHEN {bad} AND new.embedding IS NOT NULL "
            "BEGIN INSERT INTO log VALUES (new.id); END",
        ]
    ),
    "left out by a constraint": Kind(
        columns=", length INTEGER NOT NULL ON CONFLICT IGNORE GENERATED ALWAYS AS "
        "(CASE WHEN embedding IS NULL OR NOT ({is_bad}) THEN 1 END) STORED",
        mended_by="",
    ),
    "ended by a constraint": Kind(
        columns=", length INTEGER NOT NULL ON CONFLICT ROLLBACK GENERATED ALWAYS AS "
        "(CASE WHEN embedding IS NULL OR NOT ({is_bad}) THEN 1 END) STORED",
        mended_by="",
    ),
}
"""A row that is written so is not there as it was written."""
KEEPS: Mapping[str, Kind] = {
    "none": Kind(),
    "counts": Kind(
        [
            "CREATE TABLE log (note INTEGER UNIQUE)",
            "CREATE TRIGGER hooked AFTER UPDATE ON notes BEGIN INSERT OR IGNORE INTO log VALUES (new.id); END",
        ]
    ),
    "touches": Kind(
        [
            "ALTER TABLE notes ADD COLUMN touched INTEGER DEFAULT 0",
            "CREATE TRIGGER hooked AFTER UPDATE OF embedding ON notes "
            "BEGIN UPDATE notes SET touched = touched + 1 WHERE id = new.id; END",
        ]
    ),
    "replaces": Kind(columns=", slot INTEGER UNIQUE ON CONFLICT REPLACE", mended_by=""),
}
"""What is no hindrance."""
LOSES = REFUSES | DROPS


@dataclass(frozen=True, slots=True)
class Table:
    """A table `notes` of that kind. `suffix` is what stands behind its columns: STRICT, WITHOUT ROWID."""

    kind: Kind
    bad: str = "new.id IN (17, 18, 40, 99)"
    suffix: str = ""
    file: Mapping[str, object] = field(default_factory=dict)
    """Settings that the file keeps: the encoding, the journal's mode."""

    def make(self, path: Path, texts: Iterable[str | None]) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for name, value in self.file.items():
                connection.execute(f"PRAGMA {name} = {value}")
            columns = COLUMNS + put(self.kind.columns, self.bad)
            connection.execute(f"CREATE TABLE notes ({columns}) {self.suffix}")
            connection.executemany(
                "INSERT INTO notes (id, content) VALUES (?, ?)", [(n, text) for n, text in enumerate(texts, 1)]
            )

    def change(self, path: Path) -> None:
        """From now on it is of its kind."""
        run(path, *self.kind.statements(self.bad))


def made(path: Path, kind: Kind, texts: Iterable[str | None], bad: str = "new.id IN (17, 18, 40, 99)") -> None:
    table = Table(kind, bad)
    table.make(path, texts)
    table.change(path)


def run(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """The rows of the last one, on a connection of its own."""
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows

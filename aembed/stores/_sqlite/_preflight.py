"""Law 6: what cannot be written to a user's own table is found, and what is made is said, before money is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from sqlite3 import Connection

from aembed.core.spaces import merge_spaces, settled_space
from aembed.errors import ConfigError, RowRefusedError, StoreError
from aembed.stores._rules import EMPTY, mark_of, mismatch_error, probe_matrix
from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite import _leases as leases
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._column_maps import has_numbers, noted_table
from aembed.stores._sqlite._columns import (
    TableLayout,
    TableNames,
    key_as_json,
    native,
    quote_name,
    read_layout,
    vector_bytes,
)
from aembed.stores._sqlite._database import blobs, fetch_all, is_broken
from aembed.stores._sqlite._filling import FillTarget, taken_back
from aembed.types import Space

ADD = "ALTER TABLE {} ADD COLUMN {}"
# Chosen: with a single row, one odd row would stop a job that can fill all others; each one costs a write.
PROBED = 8
"""Rows of each sample that are written and taken back before money is spent: some may be refused for what they hold."""


def prepare(place: str, names: TableNames, creates_triggers: bool, asked: Space, connection: Connection) -> Space:
    """Makes what is missing; returns the space that the column is for from now on. Raises what speaks against it."""
    table = _add_columns(names, connection)
    # A row that has no key could be paid for, and not be written.
    missing = " OR ".join(f"{key} IS NULL" for key in table.keys)
    where = f"({missing}) AND {table.text} IS NOT NULL AND {table.is_stale}{table.condition} LIMIT 1"
    if connection.execute(table.select("1", where)).fetchone():
        raise ConfigError(f"{place}: a row to be filled has NULL in its key; give it a value")
    held = books.space(names.target, connection)
    # A column with no vector may change its space.
    size_bytes = vector_bytes(table, connection)
    way_out = EMPTY.format(quote_name(names.table), quote_name(names.vector))
    space = merge_spaces(held, asked)
    if space is None and held and size_bytes is not None:
        raise mismatch_error(place, held, asked, way_out)
    space = space or settled_space(asked)
    if size_bytes is not None and space.dimensions and size_bytes != space.dimensions * 4:
        raise mismatch_error(place, replace(space, dimensions=size_bytes // 4), asked, way_out)
    table = replace(table, prepared=mark_of(space))
    probe(place, names, table, space.dimensions or 1, connection)
    _add_columns(names, connection)  # Once more: a trigger that rolls back has taken it away.
    if space.dimensions and space != held:
        books.keep_space(space, names.target, connection)
    if space.dimensions:
        leases.make_tables(connection)
    if creates_triggers:
        changes.create_triggers(_numbered_table(place, names, table, connection), connection)
    return space


def announce_changes(place: str, names: TableNames, creates_triggers: bool, connection: Connection) -> Iterator[str]:
    """What `prepare` will make, a line each."""
    table = read_layout(names, connection)
    for column in table.absent:
        yield f"column {column} of {table.table}"
    if not books.has(books.COLUMNS, connection):
        yield books.MADE
    elif not books.has(leases.WORKERS, connection):
        yield books.SHARED
    if creates_triggers:
        noted = _numbered_table(place, names, table, connection)
        if not changes.is_noted(noted, connection):
            yield f"triggers {', '.join(noted.triggers())} and tables aembed_maps, aembed_changes: which rows change"


def _add_columns(names: TableNames, connection: Connection) -> TableLayout:
    table = read_layout(names, connection)
    for column in table.absent:
        connection.execute(ADD.format(table.table, column))
    return read_layout(names, connection) if table.absent else table


def _numbered_table(place: str, names: TableNames, table: TableLayout, connection: Connection) -> NotedTable:
    """Raises ConfigError for a table whose rows have no numbers."""
    noted = noted_table(names, table)
    if not has_numbers(noted, connection):
        raise ConfigError(f"{place}: a table WITHOUT ROWID is searched without a map; leave create_triggers out")
    return noted


def probe(place: str, names: TableNames, table: TableLayout, dimensions: int, connection: Connection) -> None:
    """Finds a constraint, a trigger or a STRICT type that refuses or drops all vectors, before money is spent."""
    known = {each.id for each in books.refusals(names.target, connection) if each.error == RowRefusedError.__name__}
    (blob,), reason = blobs(probe_matrix(dimensions)), ""
    # Rows that the table refused in an earlier run prove nothing, so that as many more are read as there are of those.
    for some in table.samples(PROBED + len(known)):
        found = [row for row in fetch_all(connection, some) if not any(map(is_broken, row))]
        unknown = [row for row in found if key_as_json(row[:-1]) not in known]
        rows = [(blob, *row) for row in unknown[:PROBED]]
        filled, refused = taken_back(rows, FillTarget.of_column(names.table, table), connection)
        if filled or not (refused or reason):
            return
        reason = reason or next(iter(refused.values()))
    raise StoreError(
        f"{place} does not keep what is written to it: {reason}; "
        f"change the table so that {names.vector!r} can be filled"
    )


def try_refused_again(names: TableNames, ids: Sequence[str], connection: Connection) -> set[str]:
    """Those of the rows, which the table refused earlier, that it takes: each is written and taken back."""
    space = books.space(names.target, connection)
    table = read_layout(names, connection, space)
    text, width = table.select(table.text, table.is_key), (space.dimensions if space else None) or 1
    (blob,) = blobs(probe_matrix(width))
    held = [connection.execute(text, native(id)).fetchone() for id in ids]
    rows = [(blob, *native(id), *row) for id, row in zip(ids, held, strict=True) if row]
    _, refused = taken_back(rows, FillTarget.of_column(names.table, table), connection)
    return {key_as_json(row[1:-1]) for number, row in enumerate(rows) if number not in refused}

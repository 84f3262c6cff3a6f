"""The map of a table whose changes nobody notes: one process makes it for itself, and has it until the file changes."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.stores._map._file import MapId, RowMap
from aembed.stores._sqlite import _changes as changes
from aembed.stores._sqlite._changes import NotedTable
from aembed.stores._sqlite._making import MapMaker, part_path
from aembed.stores._sqlite._mapped import TableMap
from aembed.stores._sqlite._thread import SQLiteThread

# SQLite counts here, for one connection, what all others have written.
VERSION = "PRAGMA data_version"


Version: TypeAlias = tuple[Connection, int]


class PassingMapMaker(MapMaker):
    """Its maps are in no folder: what was made is mapped, and its file removed."""

    def __init__(self, worker: SQLiteThread, noted: NotedTable) -> None:
        super().__init__(worker, noted)
        self.seen: Version | None = None
        """In which version a search has seen the file last."""
        self.made: tuple[Version | None, RowMap] | None = None
        """With the version that had been seen before the first row was read."""

    def _make_map(self, dimensions: int) -> None:
        seen, self.made = self.seen, None
        self._remove_files(())
        last = self._run("BEGIN", partial(changes.highest, self._noted))
        id = MapId(changes.new_token(), 0, dimensions)
        part = part_path(self._worker.path, id.token)
        try:
            self._write(part, id, last)
            self.made = seen, RowMap.open(part, id)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


class PassingMap(TableMap):
    """A map that was begun after a search had seen the file in some version is of that version if the file is still in
    it when the map is there: nobody wrote in between. It is good until somebody does."""

    def __init__(self, path: Path, noted: NotedTable, maker: PassingMapMaker) -> None:
        super().__init__(path, noted, maker)
        self._made_by = maker

    def _current(self, dimensions: int, connection: Connection) -> RowMap | None:
        seen = (connection, connection.execute(VERSION).fetchone()[0])
        if seen != self._made_by.seen:
            self._made_by.seen, self._mapped, self._searches_without = seen, None, 0
        made, self._made_by.made = self._made_by.made, None
        if made and made[0] == seen and made[1].id.dimensions == dimensions:
            self._mapped, self._is_checked = made[1], False
        return self._mapped

    def _throw_away(self, id: MapId) -> None:
        self._mapped = None

    def _changed(self, mapped: RowMap, connection: Connection) -> NDArray[np.int64]:
        return np.empty(0, np.int64)

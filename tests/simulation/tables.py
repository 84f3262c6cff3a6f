"""Jobs that fill a column of the user's own SQLite table, which refuses, drops or changes what is written.

    TableHistory(drawn(7), folder).check()

The judges are the provider's books and the table, read by a connection of our own. What must hold: no row is told as
stored that is not there; a text is bought once in a run, and a row twice where it was edited meanwhile; every run ends;
what the table takes is stored; a table that takes nothing costs nothing; and what was lost leaves the row as it was.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from json import loads
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np

from aembed import Embedder, InputError, Progress, Report, RowsRefusedError, SQLiteColumn, StoreError
from aembed.stores._sqlite._file import text_hash
from aembed.types import Matrix, Record, Refusal
from tests.service.in_process import DIMENSIONS
from tests.service.vectors import digest, vector_of
from tests.simulation.history import CONTROL, End, History, SteppedLoop
from tests.simulation.schedule import Edit, Run, Schedule
from tests.simulation.servers import draw
from tests.simulation.world import Faulty, FileDisk, Lost, OnFile
from tests.stores import sqlite_tables as tables

SESSIONS: Sequence[Mapping[str, object]] = (
    {},
    {"recursive_triggers": "ON"},
    {"foreign_keys": "ON", "recursive_triggers": "ON"},
    {"reverse_unordered_selects": "ON"},
    {"case_sensitive_like": "ON", "trusted_schema": "OFF"},
    {"cache_size": -32, "temp_store": "MEMORY"},
    {"secure_delete": "ON", "cell_size_check": "ON"},
)
FILES: Sequence[Mapping[str, object]] = (
    {},
    {"journal_mode": "WAL"},
    {"encoding": "'UTF-16le'"},
    {"page_size": 512, "auto_vacuum": 2},
    {"page_size": 65536, "journal_mode": "WAL"},
)
JOURNALS = ("DELETE", "TRUNCATE", "PERSIST", "MEMORY")
BADS: Mapping[str, Callable[[int], bool]] = {
    "new.id % 5 = 3": lambda id: id % 5 == 3,
    "new.id % 2 = 0": lambda id: id % 2 == 0,
    "new.id <= 12": lambda id: id <= 12,
    "new.id > 12": lambda id: id > 12,
    "new.id > 0": lambda id: id > 0,
}

BAD_ID = "substr(new.id, -1) IN ('3', '7')"
Make: TypeAlias = Callable[[int, Path], History]
"""A history by its seed, with a folder for its files."""
INSERT = "INSERT INTO notes (id, content) VALUES (?, ?)"
EMPTY = "UPDATE notes SET embedding = NULL WHERE id = ?"
DELETE = "DELETE FROM notes WHERE id = ?"


@dataclass(frozen=True, slots=True)
class Drawn:
    """`late`: the table is of its kind from that step of the first run on, not before. `mended`: it takes every row
    before the last run begins. `marked`: it has a column of fingerprints."""

    schedule: Schedule
    name: str
    table: tables.Table
    session: Mapping[str, object] = field(default_factory=dict)
    marked: bool = False
    late: int | None = None
    mended: bool = False

    @property
    def loses(self) -> Callable[[int], bool]:
        return BADS[self.table.bad] if self.name in tables.LOSES else lambda id: False


def drawn(seed: int) -> Drawn:
    random = Random(f"the table of {seed}")
    name = random.choice([*tables.LOSES, *tables.LOSES, *tables.KEEPS])
    kind = (tables.LOSES | tables.KEEPS)[name]
    file, session = random.choice(FILES), random.choice(SESSIONS)
    if "journal_mode" not in file:
        session = {**session, "journal_mode": random.choice(JOURNALS)}
    if "json_extract" in "".join(kind.statements("")):
        # SQLite 3.40 takes json_extract in a trigger for unsafe then, and refuses every write: no row could be filled.
        session = {name: value for name, value in session.items() if name != "trusted_schema"}
    schedule = draw(seed)
    runs = [replace(run, raises=None, edits=_edits(random)) for run in schedule.runs[:-1]] + [schedule.runs[-1]]
    return Drawn(
        replace(schedule, runs=runs),
        name,
        tables.Table(kind, random.choice(list(BADS)), random.choice(["", "STRICT", "WITHOUT ROWID"]), file),
        session,
        marked=random.random() < 0.5,
        late=random.randrange(1, 300) if kind.changes and random.random() < 0.2 else None,
        mended=bool(kind.mended_by and kind.changes) and random.random() < 0.3,
    )


def _edits(random: Random) -> Sequence[Edit]:
    if random.random() < 0.6:
        return ()
    steps = sorted(random.sample(range(1, 300), random.randint(1, 4)))
    return [Edit(step, random.choice(["edit", "empty", "delete", "insert"]), random.randint(1, 6)) for step in steps]


@dataclass(frozen=True, slots=True)
class Row:
    """As it stands in the table."""

    text: str
    vector: bytes | None
    mark: str | None

    @property
    def is_right(self) -> bool:
        return self.vector == vector_of(self.text, DIMENSIONS).astype("<f4").tobytes()

    @property
    def key(self) -> bytes:
        return digest(self.text.encode())


class ColumnDisk(OnFile, Faulty, SQLiteColumn):
    """A column of a real file."""

    def __init__(self, path: Path, drawn: Drawn) -> None:
        super().__init__(path, "notes", text="content", fingerprint="seen" if drawn.marked else None)
        self.open_with(self._database, drawn.session)
        self._path, self._marked = path, drawn.marked
        self.problems: list[str] = []
        self.edits = 0
        """How often the user has changed rows."""
        self.kept: dict[int, bytes] = {}
        """Rows whose refusal is kept, with the digest of the text that was refused."""

    def begin(self, run: Run) -> None:
        """A process of its own: what another one had leased is free with its end."""
        super().begin(run)
        self.close()
        for (name,) in tables.run(self._path, "SELECT name FROM sqlite_master WHERE type = 'table'"):
            if str(name).startswith("aembed_") and str(name).endswith(("leases", "workers")):
                tables.run(self._path, f"DELETE FROM {name}")  # noqa: S608

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        return await self._done(ids, texts, self._seen(ids, texts, matrix))

    async def _seen(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        before, edits = self.rows(), self.edits
        try:
            told = await super().write(ids, texts, matrix)
        except RowsRefusedError as error:
            if edits == self.edits:
                self._look(ids, texts, before, error.written, error.rows)
            raise
        if edits == self.edits:
            self._look(ids, texts, before, told, {})
        return told

    def _look(
        self, ids: Sequence[str], texts: Sequence[str], before: Mapping[int, Row], told: int, refused: Mapping[str, Any]
    ) -> None:
        """What is told as filled is there at that very moment, and what was refused is as it was.

        Where the user edited rows between the commit and this look it tells nothing.
        """
        after = self.rows()
        there = [
            id
            for id, text in zip(ids, texts, strict=True)
            if (row := after.get(loads(id))) and row.text == text and row.is_right
        ]
        if told != len(there):
            self.problems.append(f"{told} rows were told as filled, {len(there)} are there")
        if others := [id for id in refused if after.get(loads(id)) != before.get(loads(id))]:
            self.problems.append(f"rows that were refused are not as they were: {others}")

    async def refused(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, Refusal]:
        fault = await self._asked()
        refused = await super().refused(fingerprints)
        await self._returned(fault)
        return refused

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        self._living()
        await super().refuse(refusals)
        rows = self.rows()
        self.kept.update({id: rows[id].key for each in refusals if (id := loads(each.id)) in rows})

    async def fail(self, ids: Sequence[str]) -> None:
        self._living()
        await super().fail(ids)

    def rows(self) -> dict[int, Row]:
        found = tables.run(self._path, "SELECT id, content, embedding, seen FROM notes ORDER BY id")
        return {id: Row(text, vector, mark) for id, text, vector, mark in found}  # type: ignore[misc]

    def is_pending(self, row: Row) -> bool:
        return row.vector is None or (self._marked and row.mark != text_hash(row.text))

    def held(self) -> Mapping[str, tuple[str, Any]]:
        """Those that are not known to be of an earlier text."""
        return {
            str(id): (row.text, np.frombuffer(row.vector, "<f4"))
            for id, row in self.rows().items()
            if row.vector is not None and not self.is_pending(row)
        }


class TableHistory(History):
    """The runs of one drawn history over a table in that folder."""

    def __init__(self, drawn: Drawn, folder: Path) -> None:
        self.drawn = drawn
        self.path = folder / f"{drawn.schedule.seed}.db"
        drawn.table.make(self.path, [])
        super().__init__(drawn.schedule, ColumnDisk(self.path, drawn))
        self._ids: dict[str, int] = {}
        self._random = Random(f"the edits of {drawn.schedule.seed}")
        self._edition = 0
        self._mended = False
        self._row_of: dict[bytes, int] = {}
        """Which row has, or had, the text of that digest."""
        self._before: dict[int, Row] = {}
        self._controls_before = Counter[bytes]()
        self._kept_before: dict[int, bytes] = {}
        self._touched: set[int] = set()

    def _check_all(self) -> None:
        self._change(self.schedule.runs[0].records)
        if self.drawn.late is None:
            self.drawn.table.change(self.path)
        for number, run in enumerate(self.schedule.runs):
            self._change(run.records)
            if self.drawn.mended and run is self.schedule.runs[-1]:
                self._mend()
            self.run(number, run)
        self._check_last()

    def _check_last(self) -> None:
        """After a run without a fault there is nothing to do."""
        assert self.kinds[-1] in ("done", "InputError") or (self.kinds[-1] == "StoreError" and self._loses_all)
        requests, writes = self.books.ledger.requests, self.disk.writes
        if self._loses_all and self.drawn.late is None and self.drawn.table.bad == "new.id > 0":
            assert not requests, "a table that keeps nothing was paid for"
        self.run(len(self.schedule.runs), self.schedule.runs[-1])
        assert self.schedule.deadly or self.books.ledger.requests == requests, "an unchanged run sent something"
        assert self.disk.writes == writes, "an unchanged run wrote something"

    def run(self, number: int, run: Run) -> End:
        self._before, self._touched = self.disk.rows(), set()
        self._controls_before, self._kept_before = Counter(self.books.controls), dict(self.disk.kept)
        end = super().run(number, run)
        for id in self._touched:
            self.disk.kept.pop(id, None)
        return end

    # the table, and what the user's own program does to it

    def _change(self, records: Sequence[Record]) -> None:
        """The table holds these from now on. A text stands in one row: each has its own line on the bill."""
        wanted: dict[int, str] = {}
        for record in records:
            id = self._ids.setdefault(record.id, len(self._ids) + 1)
            is_plain = record.text.strip() and record.text not in self.schedule.poison
            text = f"{record.text} of {id}" if is_plain else record.text
            if is_plain or not text.strip() or text not in wanted.values():
                wanted.setdefault(id, text)
        there = self.disk.rows()
        self._put([(INSERT, (id, text)) for id, text in wanted.items() if id not in there])
        edited = [id for id, text in wanted.items() if id in there and there[id].text != text]
        self._put([(self._editing, (wanted[id], id)) for id in edited])
        self._put([(DELETE, (id,)) for id in there.keys() - wanted.keys()])

    @property
    def _editing(self) -> str:
        """Without a fingerprint it is the program that empties the column."""
        emptied = "" if self.drawn.marked else ", embedding = NULL"
        return f"UPDATE notes SET content = ?{emptied} WHERE id = ?"  # noqa: S608

    def _put(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        """What a trigger refuses is left."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement, values in statements:
                with suppress(sqlite3.Error):
                    connection.execute(statement, values)
        self._row_of.update((row.key, id) for id, row in self.disk.rows().items())

    def _edit(self, edit: Edit) -> None:
        if not self.disk.alive:
            return
        there = sorted(self.disk.rows())
        ids = self._random.sample(there, min(edit.rows, len(there)))
        self._edition += 1
        self.disk.edits += 1
        new = [1_000 * self._edition + id for id in ids]
        match edit.kind:
            case "edit":
                self._put([(self._editing, (f"edition {self._edition} of {id}", id)) for id in ids])
            case "empty":
                self._put([(EMPTY, (id,)) for id in ids])
            case "delete":
                self._put([(DELETE, (id,)) for id in ids])
            case "insert":
                self._put([(INSERT, (id, f"inserted as {id}")) for id in new])
        self._touched.update(ids, new)

    def _mend(self) -> None:
        self._mended = True
        if self._is_changed:
            tables.run(self.path, self.drawn.table.kind.mended_by)

    def _change_late(self) -> None:
        if not self._is_changed:
            self.drawn.table.change(self.path)

    @property
    def _is_changed(self) -> bool:
        return bool(tables.run(self.path, "SELECT 1 FROM sqlite_master WHERE name = 'hooked'"))

    def _loses(self, id: int) -> bool:
        return self.drawn.loses(id) and not self._mended

    @property
    def _loses_all(self) -> bool:
        """Of what is there now."""
        return all(map(self._loses, self.disk.rows()))

    # one process

    def _arm(self, loop: SteppedLoop, run: Run, job: asyncio.Task[End]) -> None:
        super()._arm(loop, run, job)
        for edit in run.edits:
            loop.at.setdefault(loop.steps + edit.step, partial(self._edit, edit))
        if self.drawn.late is not None and not self.kinds:
            loop.at.setdefault(loop.steps + self.drawn.late, self._change_late)

    async def _verb(self, embedder: Embedder, run: Run, told: list[Progress]) -> Report:
        return await embedder.backfill(self.disk, on_progress=told.append)

    # what must hold after each

    def _check_rows(self) -> None:
        assert not self.disk.problems, self.disk.problems
        super()._check_rows()

    def _check_bill(self, run: Run) -> None:
        """A text once in a run, a row twice where something was edited; and nothing that was settled before."""
        books = self.books
        bought, excuses = Counter[int](), Counter[int]()
        twice = bool(self._touched)
        for key, times in books.ledger.times_billed.items():
            in_this_run = times - books.billed_before[key]
            if key == CONTROL or not in_this_run:
                continue
            excuse = books.lost[key] - self._lost_before[key] + books.controls[key] - self._controls_before[key]
            id = self._row_of[key]
            bought[id] += in_this_run
            excuses[id] += excuse
            assert in_this_run <= 1 + twice + excuse, f"a text of row {id} was billed {in_this_run} times in one run"
            assert id in self._touched or excuse or not self._is_settled(id, key), (
                f"row {id} was settled, and is billed"
            )
        for id, times in bought.items():
            assert times <= 1 + twice + excuses[id], f"row {id} was billed {times} times in one run"

    def _is_settled(self, id: int, key: bytes) -> bool:
        """At the beginning of the run."""
        row = self._before.get(id)
        if row is None or row.key != key:
            return False
        return not self.disk.is_pending(row) or (self._loses(id) and self._kept_before.get(id) == key)

    def _possible_errors(self, run: Run) -> tuple[type[BaseException], ...]:
        possible = super()._possible_errors(run)
        blank = any(not row.text.strip() for row in self._before.values())
        may_lose_all = self._loses_all or all(map(self._loses, self._before))
        return (*possible, *([StoreError] if may_lose_all else []), *([InputError] if blank else []))

    def _check_report(self, run: Run, report: Report) -> None:
        assert (report.pending, report.stored) == (0, self.disk.acknowledged)
        assert report.failed == len(report.failures)
        failed = {loads(failure.id) for failure in report.failures}
        for id, row in self.disk.rows().items():
            if id in self._touched:
                continue
            is_pending = self.disk.is_pending(row)
            if not row.text.strip() or row.text in self.schedule.poison or (self._loses(id) and is_pending):
                assert id in failed or not is_pending, f"row {id} is empty, and did not fail"
            elif not self._loses(id):
                assert not is_pending or self._relentless, f"row {id} was left out"
                assert id not in failed or self._relentless, f"row {id} failed: {report.failures}"


LOST: Sequence[Lost] = [
    Lost(
        f"CREATE TRIGGER hooked {when} INSERT ON aembed_rows WHEN {BAD_ID} BEGIN {body}; END", lambda id: id[-1] in "37"
    )
    for when, body in (
        ("BEFORE", "SELECT RAISE(ABORT, 'not this one')"),
        ("AFTER", "SELECT RAISE(ROLLBACK, 'not this one')"),
        ("BEFORE", "SELECT RAISE(IGNORE)"),
        ("AFTER", "DELETE FROM aembed_rows WHERE id = new.id"),
        ("AFTER", "UPDATE aembed_rows SET embedding = x'00' WHERE id = new.id"),
    )
] + [Lost("CREATE TRIGGER hooked AFTER INSERT ON aembed_rows BEGIN SELECT 1; END", lambda id: False)]
"""What is done to the table of a store."""


def in_memory(seed: int, folder: Path) -> History:
    return History(draw(seed))


def of_a_table(seed: int, folder: Path) -> TableHistory:
    return TableHistory(drawn(seed), folder)


def of_a_store(seed: int, folder: Path) -> History:
    random = Random(f"the store of {seed}")
    disk = FileDisk(folder / f"{seed}.db", random.choice(LOST), random.choice(SESSIONS))
    return History(draw(seed), disk)

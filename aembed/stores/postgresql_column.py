"""A column of the user's own PostgreSQL table that is to be filled with vectors."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any, TypeVar

from aembed.core.filters import Filter
from aembed.errors import ConfigError, RowRefusedError, RowsRefusedError, StoreError
from aembed.stores._postgresql import _accounts as accounts
from aembed.stores._postgresql import _bookkeeping as books
from aembed.stores._postgresql import _filling as sql
from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql import _noticing as noticing
from aembed.stores._postgresql import _parts as parts
from aembed.stores._postgresql import _preflight as preflight
from aembed.stores._postgresql import _reading as reading
from aembed.stores._postgresql._apart import Refused
from aembed.stores._postgresql._batches import BatchTables, KeepsBatchesInTables
from aembed.stores._postgresql._columns import ColumnLayout, ColumnRequest
from aembed.stores._postgresql._copying import learn_copy
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._grants import may_write
from aembed.stores._postgresql._hooks import Hook, HookedError
from aembed.stores._postgresql._names import parse_name, quote_name
from aembed.stores._postgresql._searched import SearchedColumn
from aembed.stores._postgresql._watched import WatchedColumn
from aembed.stores._row_pages import EMPTY_PAGE, PagedRows, RowPage
from aembed.stores._rules import column_command, mark_of
from aembed.types import Embedded, Matrix, Refusal, Space

logger = logging.getLogger("aembed")
T = TypeVar("T")

BATCH_TABLES = BatchTables("aembed.batches", "aembed.batch_texts", "aembed.batch_vectors", "aembed")

# Chosen: leases that are not given back run out by themselves. Larger, a server that is away would hold up the end of
# the program.
LEAVE_SECONDS = 5.0


class PostgresColumn(PagedRows, WatchedColumn, SearchedColumn, KeepsBatchesInTables):
    """Rows of `table` (`name` or `schema.name`) that have a text and, in the column `vector`, no vector yet.

    `place` is a URL, or an asyncpg pool of your own, which is never closed or changed. The text is a column, or
    `text_sql`, an expression over the row. `key` names unique columns; by default it is the primary key. `where` is a
    condition. With `fingerprint`, a column of type text or bytea, the hash of the text is kept beside the vector and
    rows whose text changed are filled again; a vector of another text than its row's is not found by `search`, and is
    cleared where the new text fails. `create_columns` lets `prepare` add `vector` and `fingerprint` where they are
    missing. `where` and `text_sql` are put into the statements as they are, and read with TimeZone UTC, so that all
    workers see the same: never make them from what somebody else typed.

    For `watch` of a backfill `create_triggers="watch"` lets `prepare` add triggers that note which rows become pending,
    so that they are seen at once; without them `updated_at` names a column that tells when a row was edited.

    What the column is for is kept in a schema `aembed`, which texts were refused, and which worker holds which rows:
    several processes or machines may fill one column. The rows of one that died are taken over `lease_seconds` later,
    by the database's clock.
    """

    def __init__(
        self,
        place: str | Any,
        table: str,
        *,
        text: str | None = None,
        text_sql: str | None = None,
        vector: str = "embedding",
        key: str | Sequence[str] | None = None,
        where: str | None = None,
        fingerprint: str | None = None,
        create_columns: bool = False,
        create_triggers: str | None = None,
        updated_at: str | None = None,
        command_timeout: float = 30.0,
        max_store_outage: float = 90.0,
        # Chosen: smaller, a worker that stalls for some seconds loses rows that it has paid for; larger, the rows of
        # one that died wait longer.
        lease_seconds: float = 60.0,
    ) -> None:
        if (text is None) == (text_sql is None):
            raise ConfigError("name the column of the texts with text=, or an SQL expression with text_sql=")
        if create_triggers not in (None, "watch"):
            raise ConfigError(
                f"create_triggers={create_triggers!r}: in PostgreSQL triggers are for a watch ('watch'); those for "
                "searches are for SQLite (here searches are fast by an index: --index)"
            )
        if updated_at is not None and fingerprint is None:
            raise ConfigError("updated_at tells of edits, which are filled again with fingerprint= alone; add that")
        keys = (key,) if isinstance(key, str) else tuple(key or ()) or None
        self._asked = ColumnRequest(
            parse_name(table), text, text_sql, vector, keys, where, fingerprint, create_columns, updated_at
        )
        self._creates_triggers = create_triggers is not None
        for name in self._asked.columns:
            quote_name(name)
        if vector in (text, fingerprint):
            raise ConfigError(f"column {vector!r} cannot be filled: it is the text, or the fingerprint")
        self._database = PostgresDatabase(place, command_timeout=command_timeout, max_outage=max_store_outage)
        self._layout: ColumnLayout | None = None
        self._lease_seconds = lease_seconds
        self._worker: leases.ColumnWorker | None = None
        self._hooks: tuple[Hook, ...] = ()
        self._is_shared = self._warned = False
        self._spent = Counter[str]()
        self._refused: set[str] = set()
        self._passed_over = set()

    def __repr__(self) -> str:
        return f"<PostgresColumn {self._place}>"

    async def space(self) -> Space | None:
        """Which vectors the column is for; None where that is not known yet."""
        return await self._run(partial(books.read_space, self._asked.vector))

    async def prepare(self, space: Space) -> Space:
        """Checks the table, its columns, their types and width, the permissions, and that a vector can be written.

        Raises ConfigError for a name that is not there, SpaceMismatchError if the column is for other vectors.
        """
        self._layout = None
        await learn_copy(self._database)
        await preflight.check_texts(self._place, self._asked, self._run)
        space = await self._run(partial(self._prepare_column, space))
        if space.dimensions and self._creates_triggers:
            await self._run(partial(noticing.make, self._place, self._asked.vector))
        return space

    async def preflight(self, space: Space, *, index: bool = False) -> list[str]:
        """What `prepare` (and `create_index`) would make, a line each, after the same checks. Writes nothing."""
        self._layout = None
        if index:
            await self._database.check_direct()
        await learn_copy(self._database)
        await preflight.check_texts(self._place, self._asked, self._run)

        async def announced(table: ColumnLayout, connection: Connection) -> list[str]:
            held = await books.read_space(self._asked.vector, table, connection)
            lines = await preflight.announce_changes(self._place, space, held, index, table, connection)
            if self._creates_triggers:
                lines += await noticing.announce(self._place, self._asked.vector, table, connection)
            return lines

        return await self._run(announced)

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        """Fills rows whose text is still the one that was embedded; returns how many were.

        Rows that the table refuses, or drops, are found by halves: raises RowsRefusedError once all others are filled.
        """
        batch = sql.FillBatch(ids, [sha256(text.encode()).digest() for text in texts], matrix, range(len(ids)))
        # Rows are locked in the order of their keys, as by every worker: then no two wait for each other in a circle.
        order = sorted(range(len(ids)), key=ids.__getitem__)

        async def written(part: Sequence[int], refused: Refused | None, *, slow_ends: bool) -> int:
            tries, rows = count(), batch.pick(part)

            async def fill(table: ColumnLayout, connection: Connection) -> int:
                if table.dimensions and len(rows.ids) and rows.matrix.shape[1] != table.dimensions:
                    preflight.check_width(self._place, Space("", "", rows.matrix.shape[1]), table.dimensions, table)
                if forgiven := self._refused.intersection(rows.ids):
                    await books.forgive(sorted(forgiven), self._asked.vector, table, connection)
                again = next(tries) > 0
                return await sql.fill(rows, self._worker, again, self._hooks, refused, self._place, table, connection)

            try:
                filled = await self._run(fill, slow_ends=slow_ends, of_rows=True)
            except HookedError as error:
                self._hooks = error.hooks
                raise
            if self._worker:
                self._worker.note_given_up(rows.ids)
            return filled

        filled, refused = await parts.write_by_halves(order, written)
        if refused:
            if not filled:
                await self._run(partial(self._probe_rows, matrix.shape[1]))
            raise RowsRefusedError({ids[i]: error for i, error in refused.items()}, filled) from None
        return filled

    async def fail(self, ids: Sequence[str]) -> None:
        """Notes that these rows get no vector in this run, so that other workers do not wait for them.

        With `fingerprint`, vectors that they have of earlier texts are cleared.
        """
        if self._asked.fingerprint is not None:
            await self._clear(ids)
        await self.set_aside(ids)

    async def _clear(self, ids: Sequence[str]) -> None:
        async def cleared(part: Sequence[int], refused: Refused | None, *, slow_ends: bool) -> int:
            clear = partial(sql.clear, [ids[i] for i in part])
            return await self._run(clear, slow_ends=slow_ends, of_rows=True)

        order = sorted(range(len(ids)), key=ids.__getitem__)
        _, refused = await parts.write_by_halves(order, cleared, tells_apart=False)
        if refused:
            logger.warning(
                "%d rows of %s keep a vector of an earlier text, which the table does not let go: %s",
                len(refused),
                self._place,
                next(iter(refused.values())),
            )

    async def refused(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, Refusal]:
        """Those of these ids whose text was refused earlier with this fingerprint.

        Rows that the table refused are written and taken back, so that those which it takes by now are no more refused.
        """
        found = await self._run(partial(books.read_refused, list(fingerprints), self._asked.vector))
        self._refused.update(refusal.id for refusal in found)
        same = {refusal.id: refusal for refusal in found if refusal.fingerprint == fingerprints[refusal.id]}
        by_table = [id for id, refusal in same.items() if refusal.error == RowRefusedError.__name__]
        taken = await self._run(partial(preflight.try_refused_again, self._place, by_table)) if by_table else ()
        return {id: refusal for id, refusal in same.items() if id not in taken}

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Keeps them until their row is filled; not where the role may not."""
        latest = {refusal.id: refusal for refusal in refusals}
        await self._run(partial(books.refuse, latest, self._asked.vector))
        self._refused.update(latest)

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and are skipped until they change; none where the role may not read them."""
        return await self._run(partial(books.refusals, self._asked.vector))

    async def count(self) -> int:
        """How many rows are pending."""
        return await self._run(sql.count)

    async def spend(self, job: str, tokens: int) -> int:
        """Kept in the schema `aembed`, for all workers together; in this object where the role may not."""
        kept = await self._run(accounts.spend_once(tokens, partial(accounts.spend, self._asked.vector, job)))
        if kept is None:
            self._spent[job] += tokens
        return self._spent[job] if kept is None else kept

    async def close_account(self, job: str) -> None:
        """Gives up the rows that are held here; forgets what the job has spent once no other worker is at it."""
        self._spent.pop(job, None)
        # This comes first: the account stays open while a worker lives, and this is one.
        await self._leave()
        await self._run(partial(accounts.close, self._asked.vector, job))

    async def set_aside(self, ids: Sequence[str]) -> None:
        """Notes that these rows are out in a batch: no worker waits for them, and this one reads them no more."""
        if worker := self._worker:
            await self._run_statement(leases.FAIL, worker.target, worker.token, list(ids))
            worker.note_given_up(ids)

    async def _run_batches(self, work: Callable[[BatchTables, Connection], Awaitable[T]]) -> T:
        async def run(table: ColumnLayout, connection: Connection) -> T:
            scope = leases.lease_target(self._asked.vector, table)
            return await work(replace(BATCH_TABLES, scope=scope), connection)

        return await self._run(run)

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of the one that is kept. Raises StoreError where the role may not."""

        async def moved(table: ColumnLayout, connection: Connection) -> None:
            if not await may_write(connection, books.COLUMNS):
                raise StoreError(f"{self._place}: the role may not write aembed.columns; the README has the GRANTs")
            await books.keep_space(self._asked.vector, space, table, connection)

        await self._run(moved)

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...] | None:
        """The command that fills a column beside this one with vectors of that space, or that moves this one there;
        None of a pool, whose URL is not known here."""
        if (address := self._database.address) is None:
            return None
        return column_command(
            address.url(), self._flags(anew), asked, anew=f"{self._asked.vector}_new" if anew else None
        )

    async def sample(self, most: int) -> list[Embedded]:
        """Some of the filled rows; with `fingerprint` none whose text was edited since."""
        found = await self._run(partial(sql.sample, most))
        return [Embedded(id, index, vector, text) for index, (id, text, vector) in enumerate(found)]

    def _pages(self, wanted: Filter, after: str | None, size: int) -> AsyncGenerator[RowPage, None]:
        return reading.pages(partial(self._read_filled, wanted, size), after)

    def _pages_in_any_order(self, wanted: Filter, size: int) -> AsyncGenerator[RowPage, None]:
        return reading.pages_ahead(partial(self._read_filled, wanted, size))

    async def _read_filled(self, wanted: Filter, size: int, after: str | None) -> reading.FoundRows:
        return await self._run(partial(reading.read_filled, wanted, after, size))

    async def _read_ids(self, ids: Sequence[str]) -> RowPage:
        """What can be no key of the table is found by halves: it has no row."""
        try:
            return await self._run(partial(reading.read_filled_ids, ids))
        except reading.NoKeyError:
            if len(ids) == 1:
                return EMPTY_PAGE
            half = len(ids) // 2
            return RowPage.joined(await self._read_ids(ids[:half]), await self._read_ids(ids[half:]))

    async def _known_space(self) -> Space | None:
        return await self.space()

    async def aclose(self) -> None:
        """Gives back what it holds and closes the connections, if they are ours; later calls raise StoreError."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._leave()
        await self._database.aclose()

    async def _prepare_column(self, asked: Space, table: ColumnLayout, connection: Connection) -> Space:
        if table.absent and asked.dimensions:
            await preflight.add_columns(self._place, asked.dimensions, table, connection)
            table = await self._read_layout(connection)
        held = await books.read_space(self._asked.vector, table, connection)
        space = await preflight.check_column(self._place, asked, held, table, connection)
        self._layout = table = replace(table, prepared=mark_of(space))
        await self._probe_rows(space.dimensions, table, connection)
        await preflight.warn_of_hidden_rows(self._place, table, connection)
        self._is_shared = True
        if space.dimensions and not await books.make_schema(connection) and not self._warned:
            self._warned = True
            logger.warning(
                "the role may not create the schema aembed, or not write all of it (docs/table.md has the GRANTs): %s "
                "is filled by one worker only, and neither what it is for nor which texts were refused is kept",
                self._place,
            )
        if space.dimensions and space != held:
            await books.keep_space(self._asked.vector, space, table, connection)
        return space

    async def _probe_rows(self, dimensions: int | None, table: ColumnLayout, connection: Connection) -> None:
        self._hooks = await preflight.probe(self._place, dimensions, table, connection)


open_url = PostgresColumn

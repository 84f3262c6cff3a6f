"""A column of the user's own PostgreSQL table that is to be filled with vectors."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count
from json import dumps, loads
from typing import Any, TypeVar

from aembed.core.spaces import space_as_json, space_from_json
from aembed.errors import ConfigError, RowRefusedError, RowsRefusedError, StoreError
from aembed.stores._postgresql import _accounts as accounts
from aembed.stores._postgresql import _bookkeeping as books
from aembed.stores._postgresql import _filling as sql
from aembed.stores._postgresql import _leases as leases
from aembed.stores._postgresql import _parts as parts
from aembed.stores._postgresql import _preflight as preflight
from aembed.stores._postgresql._apart import Refused
from aembed.stores._postgresql._columns import ColumnLayout, ColumnRequest, native, read_layout
from aembed.stores._postgresql._copying import learn_copy
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._grants import may_write
from aembed.stores._postgresql._hooks import Hook, HookedError
from aembed.stores._postgresql._names import parse_name, quote_name
from aembed.stores._postgresql._searched import SearchedColumn
from aembed.stores._rules import column_command, mark_of
from aembed.types import Embedded, Matrix, Record, Refusal, Space

T = TypeVar("T")

logger = logging.getLogger("aembed")

# Chosen: leases that are not given back run out by themselves. Larger, a server that is away would hold up the end of
# the program.
LEAVE_SECONDS = 5.0


def open_url(url: str, table: str, **names: Any) -> PostgresColumn:
    if "create_triggers" in names:
        raise ConfigError("create_triggers is for SQLite; a column of PostgreSQL is searched fast by an index: --index")
    return PostgresColumn(url, table, **names)


class PostgresColumn(SearchedColumn):
    """Rows of `table` (`name` or `schema.name`) that have a text and, in the column `vector`, no vector yet.

    `place` is a URL, or an asyncpg pool of your own, which is never closed or changed. The text is a column, or
    `text_sql`, an expression over the row. `key` names unique columns; by default it is the primary key. `where` is a
    condition. With `fingerprint`, a column of type text or bytea, the hash of the text is kept beside the vector and
    rows whose text changed are filled again; a vector of another text than its row's is not found by `search`, and is
    cleared where the new text fails. `create_columns` lets `prepare` add `vector` and `fingerprint` where they are
    missing. `where` and `text_sql` are put into the statements as they are, and read with TimeZone UTC, so that all
    workers see the same: never make them from what somebody else typed.

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
        command_timeout: float = 30.0,
        max_store_outage: float = 90.0,
        # Chosen: smaller, a worker that stalls for some seconds loses rows that it has paid for; larger, the rows of
        # one that died wait longer.
        lease_seconds: float = 60.0,
    ) -> None:
        if (text is None) == (text_sql is None):
            raise ConfigError("name the column of the texts with text=, or an SQL expression with text_sql=")
        keys = (key,) if isinstance(key, str) else tuple(key or ()) or None
        self._asked = ColumnRequest(parse_name(table), text, text_sql, vector, keys, where, fingerprint, create_columns)
        for name in self._asked.columns:
            quote_name(name)
        if vector in (text, fingerprint):
            raise ConfigError(f"column {vector!r} cannot be filled: it is the text, or the fingerprint")
        self._database = PostgresDatabase(place, command_timeout=command_timeout, max_outage=max_store_outage)
        self._layout: ColumnLayout | None = None
        self._lease_seconds = lease_seconds
        self._worker: leases.ColumnWorker | None = None
        self._hooks: tuple[Hook, ...] = ()
        self._keeps = self._warned = False
        self._spent = Counter[str]()
        self._refused: set[str] = set()

    def __repr__(self) -> str:
        return f"<PostgresColumn {self._place}>"

    async def space(self) -> Space | None:
        """Which vectors the column is for; None where that is not known yet."""
        return await self._run(self._read_space)

    async def prepare(self, space: Space) -> Space:
        """Checks the table, its columns, their types and width, the permissions, and that a vector can be written.

        Raises ConfigError for a name that is not there, SpaceMismatchError if the column is for other vectors.
        """
        self._layout = None
        await learn_copy(self._database)
        await self._check_texts()
        return await self._run(partial(self._prepare_column, space))

    async def preflight(self, space: Space, *, index: bool = False) -> list[str]:
        """What `prepare` (and `create_index`) would make, a line each, after the same checks. Writes nothing."""
        self._layout = None
        if index:
            await self._database.check_direct()
        await learn_copy(self._database)
        await self._check_texts()

        async def announced(table: ColumnLayout, connection: Connection) -> list[str]:
            held = await self._read_space(table, connection)
            words = self._words(table)
            return await preflight.announce_changes(self._place, space, held, index, words, table, connection)

        return await self._run(announced)

    async def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        """The rows with a text and no vector, in key order; after `prepare`, those that no other worker holds.

        Where others hold the rest, it waits for them: what they give up, or leave by dying, comes too.
        """
        await self._leave()
        if await self._run(self._is_leased):
            self._worker = await self._run(self._join_workers)
        left = limit
        while True:
            # Asked before the pass, as rows may be given up behind its back; and after, as they may be taken before it.
            others, found = await self._has_other_workers(), 0
            async with aclosing(self._pass(left)) as records:
                async for record in records:
                    left, found = None if left is None else left - 1, found + 1
                    yield record
            if left == 0 or self._worker is None:
                return
            if not found and not await self._forget_lost(self._worker):
                if not (others or await self._has_other_workers()):
                    return
                # Chosen: what others give up is seen within a second, and with short leases within a part of one.
                await asyncio.sleep(min(1.0, self._lease_seconds / 5))

    async def _pass(self, limit: int | None) -> AsyncGenerator[Record, None]:
        last: list[str] | None = None
        while limit is None or limit > 0:
            size = min(sql.ROWS_PER_PAGE, limit or sql.ROWS_PER_PAGE)
            page = await self._read_page(last, size)
            mine = [Record(id, text, source=self._asked.table.table) for id, text, is_mine in page if is_mine]
            for record in mine:
                yield record
            if len(page) < size:
                return
            last = native(page[-1][0])
            limit = None if limit is None else limit - len(mine)

    async def _read_page(self, last: list[str] | None, size: int) -> list[tuple[str, str, bool]]:
        if (worker := self._worker) is None:
            return [(id, text, True) for id, text in await self._run(partial(sql.read_page, last, size))]
        await worker.wait_for_room()
        page = await self._run(partial(leases.claim, last, size, worker))
        worker.note_taken(id for id, _, is_mine in page if is_mine)
        return page

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
                return await self._fill_rows(rows, next(tries) > 0, refused, table, connection)

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

    @property
    def has_lapsed(self) -> bool:
        """Whether this worker stood still for so long that others may have taken its rows."""
        return self._worker is not None and self._worker.has_lapsed

    async def reclaim(self, ids: Sequence[str]) -> AbstractSet[str]:
        """Those of these rows that are still pending and that no other worker holds: they are held here again."""
        worker = self._worker
        if worker is None:
            return frozenset(ids)
        held = await self._run(partial(sql.reclaim, ids, worker))
        worker.note_given_up(id for id in ids if id not in held)
        worker.note_taken(held)
        return held

    async def fail(self, ids: Sequence[str]) -> None:
        """Notes that these rows get no vector in this run, so that other workers do not wait for them.

        With `fingerprint`, vectors that they have of earlier texts are cleared.
        """
        if self._asked.fingerprint is not None:
            await self._clear(ids)
        if worker := self._worker:
            await self._execute(leases.FAIL, worker.target, worker.token, list(ids))
            worker.note_given_up(ids)

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

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of the one that is kept. Raises StoreError where the role may not."""

        async def moved(table: ColumnLayout, connection: Connection) -> None:
            if not await may_write(connection, books.COLUMNS):
                raise StoreError(f"{self._place}: the role may not write aembed.columns; the README has the GRANTs")
            await books.keep_space(self._asked.vector, dumps(space_as_json(space)), table, connection)

        await self._run(moved)

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...] | None:
        """The command that fills a column beside this one with vectors of that space, or that moves this one there;
        None of a pool, whose URL is not known here."""
        if (address := self._database.address) is None:
            return None
        return column_command(
            address.url(), self._flags(anew), asked, anew=f"{self._asked.vector}_new" if anew else None
        )

    def _own_command(self, flag: str) -> tuple[str, ...] | None:
        """The command that fills this column, with that flag."""
        address = self._database.address
        return ("aembed", "backfill", "--store", address.url(), *self._flags(False), flag) if address else None

    def _flags(self, anew: bool) -> list[str]:
        names = self._asked
        fingerprint = f"{names.fingerprint}_new" if anew and names.fingerprint else names.fingerprint
        named = {
            "table": f"{names.table.schema}.{names.table.table}" if names.table.schema else names.table.table,
            "text": names.text,
            "text-sql": names.text_sql,
            "where": names.where,
            "fingerprint": fingerprint,
            "vector": None if anew else names.vector,
        }
        flags = [word for name, value in named.items() if value for word in (f"--{name}", value)]
        return flags + [word for key in names.key or () for word in ("--key", key)]

    async def sample(self, most: int) -> list[Embedded]:
        """Some of the filled rows; with `fingerprint` none whose text was edited since."""
        found = await self._run(partial(sql.sample, most))
        return [Embedded(id, index, vector, text) for index, (id, text, vector) in enumerate(found)]

    async def aclose(self) -> None:
        """Gives back what it holds and closes the connections, if they are ours; later calls raise StoreError."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._leave()
        await self._database.aclose()

    @property
    def _place(self) -> str:
        return f"column {self._asked.vector!r} of table {self._asked.table} in {self._database.name}"

    async def _run(
        self,
        work: Callable[[ColumnLayout, Connection], Awaitable[T]],
        *,
        slow_ends: bool = False,
        of_rows: bool = False,
    ) -> T:
        async def done(connection: Connection) -> T:
            if self._layout is None:
                self._layout = table = await self._read_layout(connection)
                self._layout = replace(table, prepared=mark_of(await self._read_space(table, connection)))
            return await work(self._layout, connection)

        return await self._database.run(done, safe_path=False, slow_ends=slow_ends, of_rows=of_rows)

    async def _execute(self, statement: str, *parameters: Any) -> None:
        async def done(connection: Connection) -> None:
            await connection.execute(statement, *parameters)

        await self._database.run(done, safe_path=False)

    async def _is_leased(self, table: ColumnLayout, connection: Connection) -> bool:
        return self._keeps and await may_write(connection, *leases.NAMES)

    async def _join_workers(self, table: ColumnLayout, connection: Connection) -> leases.ColumnWorker:
        token = await leases.join(self._lease_seconds, connection)
        worker = leases.ColumnWorker(token, leases.lease_target(self._asked.vector, table), self._lease_seconds)
        worker.keep_alive(partial(self._execute, leases.BEAT, token, self._lease_seconds))
        return worker

    async def _leave(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            await worker.stop_beating()
            await self._execute(leases.LEAVE, worker.token)

    async def _has_other_workers(self) -> bool:
        worker = self._worker
        if worker is None:
            return False

        async def asked(connection: Connection) -> bool:
            return bool(await connection.fetchval(leases.OTHERS, worker.target, worker.token))

        return await self._database.run(asked, safe_path=False)

    async def _forget_lost(self, worker: leases.ColumnWorker) -> bool:
        return await self._database.run(partial(leases.forget_lost, worker), safe_path=False)

    async def _read_space(self, table: ColumnLayout, connection: Connection) -> Space | None:
        found = await books.read_space(self._asked.vector, table, connection)
        return space_from_json(loads(found)) if found else None

    async def _read_layout(self, connection: Connection) -> ColumnLayout:
        return replace(await read_layout(self._asked, connection), copies=self._database.copies)

    async def _prepare_column(self, asked: Space, table: ColumnLayout, connection: Connection) -> Space:
        if table.absent and asked.dimensions:
            await preflight.add_columns(self._place, asked.dimensions, table, connection)
            table = await self._read_layout(connection)
        held = await self._read_space(table, connection)
        space = await preflight.check_column(self._place, asked, held, table, connection)
        self._layout = table = replace(table, prepared=mark_of(space))
        await self._probe_rows(space.dimensions, table, connection)
        self._keeps = True
        if space.dimensions and not await books.make_schema(connection):
            self._warn_of_working_alone()
        if space.dimensions and space != held:
            await books.keep_space(self._asked.vector, dumps(space_as_json(space)), table, connection)
        return space

    def _warn_of_working_alone(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the role may not create the schema aembed, or not write all of it (docs/table.md has the GRANTs): %s "
                "is filled by one worker only, and neither what it is for nor which texts were refused is kept",
                self._place,
            )

    async def _check_texts(self) -> None:
        """Raises ConfigError for a text that is another one each time that it is read. Somebody may edit it once."""
        if self._asked.text_sql is None:
            return
        before = await self._run(sql.read_some_texts)
        for _ in range(2):
            now = await self._run(partial(sql.read_texts_again, list(before)))
            if all(before[id] == text for id, text in now.items()):
                return
            before = now
        raise ConfigError(
            f"text_sql of {self._place} gives another text each time that it is read, so that no vector would be that "
            "of its row: leave out what changes by itself, as now() and random() do"
        )

    async def _probe_rows(self, dimensions: int | None, table: ColumnLayout, connection: Connection) -> None:
        self._hooks = await preflight.probe(self._place, dimensions, table, connection)

    async def _fill_rows(
        self, batch: sql.FillBatch, again: bool, refused: Refused | None, table: ColumnLayout, connection: Connection
    ) -> int:
        if table.dimensions and len(batch.ids) and batch.matrix.shape[1] != table.dimensions:
            preflight.check_width(self._place, Space("", "", batch.matrix.shape[1]), table.dimensions, table)
        if forgiven := self._refused.intersection(batch.ids):
            await books.forgive(sorted(forgiven), self._asked.vector, table, connection)
        return await sql.fill(batch, self._worker, again, self._hooks, refused, self._place, table, connection)

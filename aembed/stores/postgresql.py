"""Rows in tables of a PostgreSQL database with pgvector."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from aembed.core.filters import Filter
from aembed.core.spaces import merge_spaces, settled_space
from aembed.errors import ConfigError, InputError, RowsRefusedError, StoreError
from aembed.results import Report
from aembed.stores._lives import Lives, superseded_error
from aembed.stores._postgresql import _accounts as accounts
from aembed.stores._postgresql import _parts as parts
from aembed.stores._postgresql import _probe as probe
from aembed.stores._postgresql import _reading as reading
from aembed.stores._postgresql import _rows as sql
from aembed.stores._postgresql import _shares as shares
from aembed.stores._postgresql import _tables as tables
from aembed.stores._postgresql._apart import Refused
from aembed.stores._postgresql._batches import BatchTables, KeepsBatchesInTables
from aembed.stores._postgresql._copying import learn_copy
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._hooks import Hook, HookedError, hooks_of
from aembed.stores._postgresql._kept import read_codec, refusal, without_nul
from aembed.stores._postgresql._names import TableName, parse_name
from aembed.stores._postgresql._read_files import FileTables
from aembed.stores._postgresql._searched_store import SearchedStore
from aembed.stores._postgresql._tables import StoreLayout, StoreNames
from aembed.stores._postgresql._wire import Storage
from aembed.stores._row_pages import EMPTY_PAGE, PagedRows, RowPage
from aembed.stores._rules import (
    BESIDE,
    check_rows,
    mismatch_error,
    rejection_error,
    store_command,
    summary,
)
from aembed.types import Known, Record, Refusal, Rows, Space, StoreInfo, Vector

T = TypeVar("T")

TABLE = "aembed"
LONGEST_SUFFIX = "_refusals"


class PostgresStore(PagedRows, SearchedStore, FileTables, KeepsBatchesInTables):
    """Rows in the table `table` (`name` or `schema.name`), with `_refusals` and `_meta` beside it.

    `place` is a URL, or an asyncpg pool of your own, which is never closed or changed. `prepare` makes the tables, and
    the extension pgvector where the role may. `storage` is "vector" or "halfvec"; by default halfvec for more than
    2,000 dimensions, because pgvector cannot index more as vector. `store_text=False` leaves the texts out.
    `command_timeout` is the most seconds one transaction may take, `max_store_outage` how many to wait for a server
    that is away.
    """

    def __init__(
        self,
        place: str | Any,
        *,
        table: str | None = None,
        storage: Storage | None = None,
        store_text: bool = True,
        # Chosen: the rows of a full request are written in tenths of a second, so that 30 s mean a server that hangs.
        # Larger, what was paid for waits in memory for longer; smaller, a loaded server would be left while it works.
        command_timeout: float = 30.0,
        # Chosen: a restart or a failover of a hosted server is over by then, as a rule. Larger, a job that cannot store
        # anything stands still without an end in sight.
        max_store_outage: float = 90.0,
    ) -> None:
        self._database = PostgresDatabase(place, command_timeout=command_timeout, max_outage=max_store_outage)
        given = self._database.address.parameters if self._database.address else {}
        self._table = parse_name(table or given.get("table") or TABLE)
        # Called for its checks alone: the longest name of the three must not be cut by the server.
        str(self._table.beside(LONGEST_SUFFIX))
        self._storage: Storage | None = _storage(storage or given.get("storage"))
        self._store_text = store_text
        self._hooks: tuple[Hook, ...] = ()
        self._lives = Lives()
        self._codec: str | None = None
        """Of the database, where it does not hold every text."""
        self._names: StoreNames | None = None
        self._layout: StoreLayout | None = None

    def __repr__(self) -> str:
        return f"<PostgresStore {self._place}>"

    async def prepare(self, space: Space) -> Space:
        """Creates what is missing, checks that it can be written, and keeps the space once its dimensions are known.

        Raises SpaceMismatchError if rows of another space are here.
        """
        tables.choose_storage(self._storage, space.dimensions)
        # It comes first, since the names found below carry what was learned.
        await learn_copy(self._database)
        self._names = None
        names = await self._find_names()
        return await self._database.run(partial(self._prepare_tables, space, names))

    def reject(self, record: Record) -> InputError | None:
        """Why this store could not keep that record, as an InputError, or None; asked before it is paid for."""
        return rejection_error(record) or refusal(record, self._codec)

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        """What is here of these ids: with the same digest, with another, or refused earlier with that fingerprint."""
        return await self._read(partial(sql.known, digests, fingerprints), Known())

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        """The vectors, float32 of shape (dimensions,), that were paid for under these fingerprints."""
        empty: dict[bytes, Vector] = {}
        return await self._read(partial(sql.vectors, fingerprints), empty)

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        """Inserts or replaces by id, in one transaction; in more of them where the server's timeout asks for it.

        Rows that the table refuses, or drops, are found by halves: raises RowsRefusedError once all others are written.
        So are rows that others wrote while the worker that writes these stood still.
        """
        life = self._lives.life_of(rows.token)
        if life is None or life.lapsed_at is None:
            try:
                await self._write_rows(rows, refusals)
                return
            except sql.LateError:
                assert life is not None
        late = await self._write(partial(sql.newer_ids, rows, life.lapse()))
        part = rows.picked([i for i, id in enumerate(rows.ids) if id not in late])
        refused: dict[str, StoreError] = {id: superseded_error(id) for id in sorted(late)}
        try:
            await self._write_rows(part, refusals)
        except RowsRefusedError as error:
            raise RowsRefusedError({**refused, **error.rows}, error.written) from None
        if refused:
            raise RowsRefusedError(refused, len(part))

    async def _write_rows(self, rows: Rows, refusals: Sequence[Refusal]) -> None:
        left = list(refusals)
        # Writers that take their locks in one order never wait for each other in a circle.
        order = sorted(range(len(rows)), key=rows.ids.__getitem__)

        async def written(part: Sequence[int], refused: Refused | None, *, slow_ends: bool) -> int:
            write = partial(self._write_part, rows, part, refused, tuple(left))
            try:
                taken = await self._write(write, slow_ends=slow_ends, of_rows=True)
            except HookedError as error:
                self._hooks = error.hooks
                raise
            left.clear()
            return taken

        taken, refused = await parts.write_by_halves(order, written)
        if left:
            await written([], None, slow_ends=False)
        if refused:
            if not taken:
                await self._write(self._probe_table)
            raise RowsRefusedError({rows.ids[i]: error for i, error in refused.items()}, taken) from None

    async def stale(self, source: str, keep: AbstractSet[str]) -> list[str]:
        """The ids of rows of that source that are not in `keep`."""
        return await self._read(partial(sql.stale, source, keep), [])

    async def delete(self, ids: Sequence[str]) -> int:
        """Removes these rows and refusals; returns how many rows were there."""
        return await self._write(partial(sql.delete, ids))

    def _pages(self, wanted: Filter, after: str | None, size: int) -> AsyncGenerator[RowPage, None]:
        return reading.pages(partial(self._read_page, wanted, size), after)

    def _pages_in_any_order(self, wanted: Filter, size: int) -> AsyncGenerator[RowPage, None]:
        return reading.pages_ahead(partial(self._read_page, wanted, size))

    async def _read_page(self, wanted: Filter, size: int, after: str | None) -> reading.FoundRows:
        return await self._read(partial(reading.read_page, wanted, after, size), reading.NOTHING_FOUND)

    async def _read_ids(self, ids: Sequence[str]) -> RowPage:
        return await self._read(partial(reading.read_ids, without_nul(ids)), EMPTY_PAGE)

    async def _find_ids(self, ids: Sequence[str]) -> AbstractSet[str]:
        return await self._read(partial(reading.find_ids, without_nul(ids)), set[str]())

    async def _known_space(self) -> Space | None:
        async def held(layout: StoreLayout, connection: Connection) -> Space | None:
            return layout.space

        return await self._read(held, None)

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and are skipped until they change, by id."""
        return await self._read(sql.refusals, [])

    async def info(self) -> StoreInfo:
        """How many rows and refusals there are, their space and sources, the size, and how the last run ended."""
        return await self._read(sql.info, StoreInfo(0, None, 0, 0))

    async def finish(self, report: Report) -> None:
        """Keeps the report of the last run for `info`, without its failures."""
        await self._write(partial(tables.set_meta, "last_run", summary(report)))

    async def spend(self, job: str, tokens: int) -> int:
        """Adds tokens to what that job has spent (less than 0: gives back); returns the sum. See Accounts."""
        return await self._write(accounts.spend_once(tokens, partial(tables.spend, job)))

    async def close_account(self, job: str) -> None:
        """Forgets what the job of that name has spent: it has come to its end. See Accounts."""
        await self._write(partial(tables.close_account, job))

    async def answered_by(self, model: str) -> str:
        """The name that replies gave to the rows' model; this one is kept where there is none. See KeepsModel."""
        return await self._write(partial(sql.answered_by, model))

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of its own; no row changes. See Moves."""
        await self._write(partial(tables.move, space))
        self._layout = None

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...] | None:
        """The command that makes a store of that space beside this one, or that moves this one there; None of a pool,
        whose URL is not known here."""
        return store_command(places, asked, anew=anew) if (places := self._places) else None

    async def join(self, seconds: float) -> tuple[int, bool] | None:
        """A new worker: its token, and whether it is alone. It lives so many seconds without `lease`. See Leases."""
        joined = await self._write(partial(shares.join, seconds))
        if joined is None:
            return None
        token, alone, ends_at = joined
        self._lives.note_seen(token, ends_at - seconds, seconds)
        return token, alone

    async def others(self, token: int) -> bool:
        """Whether a worker with another token lives."""
        return await self._write(partial(shares.others, token))

    async def lease(
        self, token: int, wanted: Collection[bytes], *, done: Collection[bytes] = (), seconds: float
    ) -> AbstractSet[bytes]:
        """Kept in the tables `_leases` and `_workers` beside the rows."""
        leased, ends_at = await self._write(partial(shares.lease, token, wanted, done, seconds))
        self._lives.note_seen(token, ends_at - seconds, seconds)
        return leased

    async def leave(self, token: int) -> None:
        """Gives up all that the worker of that token holds."""
        self._lives.forget(token)
        await self._write(partial(shares.leave, token))

    async def aclose(self) -> None:
        """Closes the connections, if they are ours; later calls raise StoreError."""
        await self._database.aclose()

    async def _run_batches(self, work: Callable[[BatchTables, Connection], Awaitable[T]]) -> T:
        names = await self._find_names()
        placed = TableName(names.table, names.schema)
        batches, texts, vectors = (str(placed.beside(suffix)) for suffix in ("_batches", "_out", "_bought"))
        return await self._database.run(partial(work, BatchTables(batches, texts, vectors, names.schema)))

    async def _prepare_tables(self, asked: Space, names: StoreNames, connection: Connection) -> Space:
        self._codec = await read_codec(connection)
        await connection.execute(tables.LOCK, names.rows)
        layout = await tables.find_tables(names, connection)
        if layout is None:
            layout = await tables.make_tables(names, self._storage, asked, connection)
        if not await connection.fetchval(tables.WRITABLE, names.rows):
            raise StoreError(f"{self._place} cannot be written: the server is read-only, or GRANT INSERT, UPDATE on it")
        space = merge_spaces(layout.space, asked)
        if space is None or space.dimensions != layout.dimensions:
            space = await self._change_space(space, asked, layout, connection)
        if space != layout.space:
            await tables.keep_space(space, layout, connection)
        self._layout = layout = await tables.find_tables(names, connection)
        if layout is not None:
            await tables.index_odd(layout, connection)
            await self._probe_table(layout, connection)
        return space

    async def _probe_table(self, layout: StoreLayout, connection: Connection) -> None:
        """Raises StoreError where the table keeps nothing that is written."""
        self._hooks = await hooks_of(layout.names.rows, connection)
        await probe.check(self._place, self._hooks, layout, connection)

    async def _change_space(
        self, space: Space | None, asked: Space, layout: StoreLayout, connection: Connection
    ) -> Space:
        """Another space, or another width than the column's: only where no row is here."""
        if await sql.has_rows(layout, connection):
            held = layout.space or replace(asked, dimensions=layout.dimensions)
            if space is not None and (space.dimensions is None or layout.dimensions is None):
                return space
            if (places := self._places) is None:
                old = self._name_in_url
                stores = f"PostgresStore(pool, table={f'{old}_new'!r}), PostgresStore(pool, table={old!r})"
                raise mismatch_error(self._place, held, asked, f"{BESIDE}: await embedder.embed_into({stores})")
            advice = f"{BESIDE}, with your user and password in both URLs"
            raise mismatch_error(self._place, held, asked, advice, places=places)
        if (wanted := space or settled_space(asked)).dimensions:
            await tables.retype(self._storage, wanted, layout, connection)
        return wanted

    @property
    def _name_in_url(self) -> str:
        return f"{self._table.schema}.{self._table.table}" if self._table.schema else self._table.table

    @property
    def _places(self) -> tuple[str, str] | None:
        """The URLs of this store and of one beside it, without a password."""
        address, old = self._database.address, self._name_in_url
        return (address.url(table=old), address.url(table=f"{old}_new")) if address else None

    async def _write_part(
        self,
        rows: Rows,
        part: Sequence[int],
        refused: Refused | None,
        refusals: Sequence[Refusal],
        layout: StoreLayout,
        connection: Connection,
    ) -> int:
        taken = 0
        if len(part):
            check_rows(self._place, layout.space, rows)
            life, keep_text = self._lives.life_of(rows.token), self._store_text
            taken = await sql.upsert(rows, part, keep_text, self._hooks, refused, life, layout, connection)
        if refusals:
            await sql.refuse(refusals, layout, connection)
        return taken


open_url = PostgresStore


def _storage(name: str | None) -> Storage | None:
    match name:
        case None | "vector" | "halfvec":
            return name
        case _:
            raise ConfigError(f'storage={name!r} must be "vector" or "halfvec"')

"""What a Store must do, and what one may do besides."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol, runtime_checkable

from aembed.errors import InputError
from aembed.results import Report
from aembed.types import (
    Embedded,
    FilePart,
    Known,
    KnownFiles,
    Match,
    Matrix,
    Metadata,
    Record,
    Refusal,
    Rows,
    Space,
    StoreInfo,
    Vector,
)


@runtime_checkable
class Store(Protocol):
    """Keeps rows of a single space. Raises only StoreError."""

    async def prepare(self, space: Space) -> Space:
        """Creates what is missing and returns the space with what the store knows filled in.

        Raises SpaceMismatchError if it holds rows of another space.
        """
        ...

    def reject(self, record: Record) -> InputError | None:
        """Why this store could not write that record; asked before it is paid for, in a thread for a long text."""
        ...

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        """What is here already of these ids, in one round trip. Works before `prepare`."""
        ...

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        """The vectors that were paid for already, wherever their text stood."""
        ...

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        """Inserts or replaces by id, in one short transaction; durable when it returns.

        A store whose table refuses single rows writes all others and raises RowsRefusedError.
        """
        ...

    async def stale(self, source: str, keep: AbstractSet[str]) -> list[str]:
        """The ids of rows of that source that are not in `keep`."""
        ...

    async def delete(self, ids: Sequence[str]) -> int:
        """Removes these rows and refusals, in one transaction; returns how many rows were there."""
        ...

    def rows(self) -> AsyncIterator[Embedded]:
        """Every row, by id: a store is itself a source."""
        ...

    async def refusals(self) -> list[Refusal]:
        """The texts that were refused and not written since, by id."""
        ...

    async def info(self) -> StoreInfo:
        """What it holds; `space` is None while it is empty. Works before `prepare`."""
        ...

    async def finish(self, report: Report) -> None:
        """Notes how the last job ended."""
        ...

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest rows, best first. `where` is a filter of their metadata, in the language of docs/searching.md.

        The verbs of Embedder have checked it. Raises ConfigError for one that this store does not understand.
        """
        ...

    async def aclose(self) -> None:
        """Closes what it opened itself, and nothing that it was given."""
        ...


@runtime_checkable
class SearchesWords(Protocol):
    """What a Store or a Backlog may do besides: find rows by the exact names of a question (`hybrid` of a search)."""

    async def prepare_words(self) -> None:
        """Called before the question is paid for. Raises ConfigError where `search_words` cannot answer."""
        ...

    async def search_words(self, text: str, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k best rows that hold words of the text which are rare in the store, best first.

        `score` is the similarity to the vector; `where` keeps rows as in `search`.
        """
        ...


@runtime_checkable
class ReadsRows(Protocol):
    """What a Store or a Backlog may do besides: give its rows and vectors back. Of a Backlog, those that are filled.

    `where` is a filter as that of `search`; what is none raises ConfigError.
    """

    async def get(self, ids: Sequence[str]) -> list[Embedded | None]:
        """The rows that have these ids, in the order asked, None where there is none."""
        ...

    async def has(self, ids: Sequence[str]) -> AbstractSet[str]:
        """Those of these ids that have a row."""
        ...

    def rows(self, where: Metadata | None = None, after: str | None = None) -> AsyncIterator[Embedded]:
        """Every row that passes the filter and comes after that id, in order: without arguments, `Store.rows`."""
        ...

    async def matrix(
        self, where: Metadata | None = None, path: str | os.PathLike[str] | None = None
    ) -> tuple[list[str], Matrix]:
        """Their ids, and their vectors in one array, in any order; in a file at `path` that is mapped, if one is given.

        Raises ConfigError for more than 1 GB without a path.
        """
        ...

    def to_arrow(self, where: Metadata | None = None) -> AsyncIterator[Any]:
        """The same rows as pyarrow.RecordBatch, whose column `vector` is a fixed-size list of float32."""
        ...


@runtime_checkable
class Accounts(Protocol):
    """What a Store or a Backlog may do besides: keep what a job has spent of its budget, from run to run.

    `job` is the name of an account, whatever it says: a day's budget has one of its own for each day. Without these
    two a budget holds for each run by itself, and one of a day or a month is refused.
    """

    async def spend(self, job: str, tokens: int) -> int:
        """Adds to what that job has spent (less than 0: gives back), and returns the sum. Durable when it returns.

        Workers that share a job share the sum. What is given back must not be given twice.
        """
        ...

    async def close_account(self, job: str) -> None:
        """The job has come to its end; nothing is spent of the next one."""
        ...


@runtime_checkable
class KeepsModel(Protocol):
    """What a Store may do besides: keep the name that replies gave to the model of its vectors."""

    async def answered_by(self, model: str) -> str:
        """The name that belongs to the rows here: where there are none, or none was kept, this one from now on."""
        ...


@runtime_checkable
class Moves(Protocol):
    """What a Store may do besides: take another name, or another address, of the model of its rows."""

    async def move(self, space: Space) -> None:
        """Keeps that space in the place of the one that is kept, forgets what `answered_by` kept; no row changes."""
        ...


@runtime_checkable
class RemembersFiles(Protocol):
    """What a Store may do besides: remember which files its rows were read from, so that those that have not changed
    are not read again.

    Whoever reads a source begins, remembers what came of its files once all of it is stored, and ends. A process that
    is killed in between, or two that read at the same time, leave nothing that is believed.
    """

    async def known_files(self, source: str) -> KnownFiles | None:
        """What is remembered of that source. None where this store cannot remember, as the role may make no tables."""
        ...

    async def begin_files(self, source: str, generation: int, *, anew: bool) -> int | None:
        """A new generation, open. None where `generation` is not the present one: then nothing is remembered any more.
        `anew`: what was remembered is forgotten.
        """
        ...

    async def remember_files(
        self, source: str, generation: int, parts: Sequence[FilePart], gone: Collection[str] = ()
    ) -> None:
        """Replaces what is remembered of these files, and forgets those that are gone. One short transaction.

        Nothing happens where the generation is another one by now.
        """
        ...

    async def end_files(self, source: str, generation: int, others: int) -> None:
        """All of the source is stored and remembered. If the generation is another one by now all is forgotten."""
        ...

    def file_ids(self, source: str) -> AsyncIterator[tuple[str, bytes]]:
        """The hashes of the ids of each file, a part at a time."""
        ...

    def ids_of(self, source: str) -> AsyncIterator[Sequence[str]]:
        """The ids of all rows of that source, some at a time."""
        ...


@runtime_checkable
class Leases(Protocol):
    """What a Store may do besides: tell the jobs that fill it at once which texts each of them is about to send.

    None of it has to be durable: what is lost with the power is paid for again at most.
    """

    async def join(self, seconds: float) -> tuple[int, bool] | None:
        """The token of a new worker, larger than any before, which lives so long without `lease`; and whether it is
        alone: then it holds whatever it likes, and nobody else is given anything, until its own first `lease`.

        None where there are no leases.
        """
        ...

    async def others(self, token: int) -> bool:
        """Whether another worker lives. Only asked."""
        ...

    async def lease(
        self, token: int, wanted: Collection[bytes], *, done: Collection[bytes] = (), seconds: float
    ) -> AbstractSet[bytes]:
        """Those of the wanted fingerprints that are this worker's now: no living worker holds them, no row has them.

        Gives up those that are `done`; from now on the worker lives so many seconds, by the clock of the database.
        """
        ...

    async def leave(self, token: int) -> None:
        """Gives up all that the worker holds."""
        ...

"""Stage 1: whatever the caller iterates over becomes chunks of records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import asynccontextmanager
from inspect import isawaitable
from io import IOBase
from itertools import count, islice
from typing import Any, TypeAlias, TypeVar

import anyio

from aembed.errors import InputError, SourceError
from aembed.protocols import Store
from aembed.types import Embedded, Failure, Record, Space

T = TypeVar("T")

logger = logging.getLogger("aembed")

CLOSE_SECONDS = 5.0
"""That a source may take to close, however the job has ended."""
MOST_CANCELLATIONS = 2
CHUNK = 256
"""Records looked up in the store at once, and the most that are read without giving way to the loop."""

Source: TypeAlias = Iterable[Any] | AsyncIterable[Any]
Read: TypeAlias = Record | Failure | Embedded
Chunk: TypeAlias = tuple[int, Sequence[Read]]
"""The position of the first of them, and what was read."""


def text_record(index: int, value: Any) -> Read:
    """A text of a list: its id is its position."""
    return Record(str(index), value)


def any_record(index: int, value: Any) -> Read:
    """A record, a row of another store, or a line that could not be read."""
    match value:
        case str():
            return Record(str(index), value)
        case Record() | Failure() | Embedded(text=str()):
            return value
        case Embedded(id=id):
            return Failure(
                id, index, InputError(f"the row {id!r} was stored without its text; it cannot be re-embedded")
            )
        case _:
            error = InputError(f"input {index} must be an aembed.Record(id, text), not {type(value).__name__}")
            return Failure(str(index), index, error)


def record_in(row: Embedded) -> Record:
    """What would be embedded again, were its vector of no use."""
    return Record(row.id, row.text or "", row.metadata, row.source)


class Feed:
    """Chunks of a source, in order, with positions: `fill` reads ahead by one chunk while another is worked on.

    A slow source gives small chunks, so that nothing it gave waits for what it will give. At the end its iterator is
    closed, before whoever reads hears of the end: a cursor in a generator would hold its connection.
    """

    def __init__(self, source: Source, record: Callable[[int, Any], Read]) -> None:
        self._source = source
        self._iterator: object = source
        self._record = record
        self._values: list[Any] = []
        self._ended = self._left = False
        self.starved = False
        self._error: BaseException | None = None
        self._changed = anyio.Event()

    async def fill(self) -> None:
        """Reads until the source ends, or this is cancelled. The source is cancelled once, and may then clean up."""
        reading = asyncio.get_running_loop().create_task(self._read())
        try:
            await asyncio.wait([reading])
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave(reading)
            self._ended = True
            self._notify()

    async def _leave(self, reading: asyncio.Task[None]) -> None:
        self._left = True
        for _ in range(MOST_CANCELLATIONS):
            if reading.done():
                return
            reading.cancel()
            await asyncio.wait([reading], timeout=CLOSE_SECONDS)
            if not reading.done():
                logger.error("the source was cancelled and did not close within %g s", CLOSE_SECONDS)

    async def _read(self) -> None:
        try:
            if isinstance(self._source, AsyncIterable):
                self._iterator = iterator = aiter(self._source)
                async for value in _Held(iterator):
                    self._values.append(value)
                    if len(self._values) in (1, CHUNK):
                        await self._offered()
            else:
                self._iterator = given = iter(self._source)
                await self._fill_from(given)
        except asyncio.CancelledError as error:
            if self._left:
                raise
            self._error = error  # The source's own: a task that it waits for was cancelled.
        except Exception as error:
            self._error = error
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Closes what was iterated over, where it can be closed. An open file stays open."""
        iterator, self._iterator = self._iterator, None
        close = getattr(iterator, "aclose", None) or getattr(iterator, "close", None)
        iterates = hasattr(iterator, "__anext__") or hasattr(iterator, "__next__")
        if not iterates or isinstance(iterator, IOBase) or not callable(close):
            return
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(CLOSE_SECONDS):
                closing = close()
                if isawaitable(closing):
                    await closing
        except TimeoutError:
            logger.error("the source did not close within %g s", CLOSE_SECONDS)
        except Exception as error:
            logger.error("the source raised %s while it was closed", type(error).__name__, exc_info=error)

    async def _fill_from(self, values: Iterator[Any]) -> None:
        """What came before an error is kept."""
        while True:
            self._values.extend(islice(values, CHUNK))
            if len(self._values) < CHUNK:
                return
            await self._offered()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Raises SourceError for what the source raised, after all that it gave."""
        index = 0
        while values := await self._take():
            yield index, list(map(self._record, count(index), values))
            index += len(values)
        if self._error:
            name = type(self._error).__name__
            raise SourceError(f"the records raised {name}; all that came before was kept") from self._error

    async def _take(self) -> list[Any]:
        while not self._values and not self._ended:
            self.starved = True
            await self._changed.wait()
        self.starved = False
        values, self._values = self._values, []
        self._notify()
        return values

    async def _offered(self) -> None:
        self._notify()
        while len(self._values) >= CHUNK:
            if self._left:
                raise asyncio.CancelledError
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def iterating(values: AsyncIterable[T]) -> AsyncIterator[AsyncIterator[T]]:
    """An iterator over them that is closed at the end, where it can be: one generator inside another."""
    iterator = aiter(values)
    try:
        yield iterator
    finally:
        if aclose := getattr(iterator, "aclose", None):
            await aclose()


class _Held:
    """An iterator that `async for` may go through: not each has an `__aiter__` of its own."""

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterator


def refuse_what_is_no_list(texts: object) -> None:
    """A str is an iterable of str, a data frame or a dict one of its names: never what was meant."""
    if isinstance(texts, str | bytes):
        raise InputError("this takes many texts; for one text use embed_query(text), or give [text]")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise InputError("iterating over this gives names, not texts; give one column or .values()")


def known_length(texts: object) -> int | None:
    """How many there are, where that is known: an array, a list, a column of a data frame."""
    return len(texts) if isinstance(texts, Sized) else None


def rows_of(records: Source | Store) -> Source:
    return records.rows() if isinstance(records, Store) else records


async def space_of(records: object) -> Space | None:
    """Which vectors the records carry, where they are rows of a store."""
    if isinstance(records, Store):
        return (await records.info()).space
    space = getattr(records, "space", None)
    return space if isinstance(space, Space) else None

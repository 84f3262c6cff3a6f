"""Stage 1 makes chunks of records of whatever the caller iterates over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence, Sized
from contextlib import asynccontextmanager
from inspect import isawaitable
from io import IOBase
from itertools import count, islice
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import anyio

from aembed.dispatch import Notice
from aembed.errors import InputError, SourceError
from aembed.pipeline.arrow_records import ArrowStream, Unpacker, batches_of, is_stream
from aembed.protocols import Store
from aembed.results import Failure
from aembed.types import Embedded, Record, Space, Unread

T = TypeVar("T")

logger = logging.getLogger("aembed")

# Chosen: to close a cursor or a file takes milliseconds; a source that hangs must not keep a job from ending.
CLOSE_SECONDS = 5.0
"""A source may take so many seconds to close, however the job has ended."""
# Chosen: a source may catch the first cancellation by accident; one that catches two is left alone.
MOST_CANCELLATIONS = 2
"""A source is cancelled so many times."""
# Chosen: an eighth of a full request of OpenAI (2,048 texts). Larger, the loop is held for longer by each step;
# smaller, the store is asked more often.
CHUNK = 256
"""So many records are looked up in the store at once, and read at the most without giving way to the loop."""

Source: TypeAlias = Iterable[Any] | AsyncIterable[Any]
Read: TypeAlias = Record | Failure | Embedded | Unread
Chunk: TypeAlias = tuple[int, Sequence[Read]]
"""The position of the first record of a chunk, and what was read."""


def text_record(index: int, value: Any) -> Read:
    """The record of a text of a list, whose id is its position."""
    return Record(str(index), value)


def any_record(index: int, value: Any) -> Read:
    """What is read for any value: a record, a row of another store, or a failure for a line that could not be read."""
    match value:
        case str():
            return Record(str(index), value)
        case Record() | Failure() | Embedded(text=str()) | Unread():
            return value
        case Embedded(id=id):
            return Failure(
                id, index, InputError(f"the row {id!r} was stored without its text; it cannot be re-embedded")
            )
        case _:
            error = InputError(f"input {index} must be an aembed.Record(id, text), not {type(value).__name__}")
            return Failure(str(index), index, error)


def record_in(row: Embedded) -> Record:
    """The record of a row, which is embedded again if the row's vector is of no use."""
    return Record(row.id, row.text or "", row.metadata, row.source)


def count_inputs(chunk: Chunk) -> int:
    """How many inputs a chunk stands for."""
    reads = chunk[1]
    return len(reads) + sum(read.count - 1 for read in reads if type(read) is Unread)


@runtime_checkable
class HeedsSpace(Protocol):
    """A source that may leave out what is in the store already, as long as texts are embedded as they were then."""

    def heed(self, kind: bytes) -> None:
        """Called before it is read: `kind` changes where the fingerprints of all texts do."""
        ...


class Feed:
    """The chunks of a source, in order, with positions: `fill` reads ahead by one chunk while another is worked on.

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
        self._changed = Notice()

    def heed(self, kind: bytes) -> None:
        if isinstance(self._source, HeedsSpace):
            self._source.heed(kind)

    async def fill(self) -> None:
        """Reads until the source ends, or this is cancelled. The source is cancelled once, and may then clean up."""
        reading = asyncio.get_running_loop().create_task(self._read())
        try:
            await asyncio.wait([reading])
        finally:
            self._left = True
            cancellations = 0
            with anyio.CancelScope(shield=True):
                while not reading.done() and cancellations < MOST_CANCELLATIONS:
                    reading.cancel()
                    cancellations += 1
                    await asyncio.wait([reading], timeout=CLOSE_SECONDS)
                    if not reading.done():
                        logger.error("the source was cancelled and did not close within %g s", CLOSE_SECONDS)
            self._ended = True
            self._changed.tell()

    async def _read(self) -> None:
        """Reads the source, of either kind, to its end; its error is kept until all that came before was taken."""
        unpacker = Unpacker()
        try:
            if isinstance(self._source, AsyncIterable):
                self._iterator = iterator = aiter(self._source)
                async for value in _HeldIterator(iterator):
                    for each in unpacker.records_in(value):
                        self._values.append(each)
                        if len(self._values) in (1, CHUNK):
                            await self._wait_until_taken()
            else:
                self._iterator = iter(self._source)
                given = unpacker.all_of(self._iterator)
                while True:
                    self._values.extend(islice(given, CHUNK))  # what came before an error is kept
                    if len(self._values) < CHUNK:
                        break
                    await self._wait_until_taken()
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

    async def chunks(self) -> AsyncIterator[Chunk]:
        """The chunks. Raises SourceError for what the source raised, after all that it gave."""
        index = 0
        while True:
            while not self._values and not self._ended:
                self.starved = True
                await self._changed.wait()
            self.starved = False
            values, self._values = self._values, []
            self._changed.tell()
            if not values:
                break
            chunk = index, list(map(self._record, count(index), values))
            yield chunk
            index += count_inputs(chunk)
        if self._error:
            name = type(self._error).__name__
            raise SourceError(f"the records raised {name}; all that came before was kept") from self._error

    async def _wait_until_taken(self) -> None:
        self._changed.tell()
        while len(self._values) >= CHUNK:
            if self._left:
                raise asyncio.CancelledError
            await self._changed.wait()


@asynccontextmanager
async def iterate(values: AsyncIterable[T]) -> AsyncIterator[AsyncIterator[T]]:
    """An iterator over the values that is closed at the end, if it can be: for a generator inside another one."""
    iterator = aiter(values)
    try:
        yield iterator
    finally:
        if aclose := getattr(iterator, "aclose", None):
            await aclose()


class _HeldIterator:
    """An iterator that `async for` may go through: not each has an `__aiter__` of its own."""

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterator


def refuse_what_is_no_list(texts: object, *, tables: bool = False) -> None:
    """Raises InputError for a str, which iterates over letters, and for a dict or data frame, which do over names.

    `tables`: a data frame that gives its rows in Arrow's form is taken.
    """
    # Law 6: what can be refused is refused before money is spent; a str would cost a request of single letters.
    if isinstance(texts, str | bytes):
        raise InputError("this takes many texts; for one text use embed_query(text), or give [text]")
    if tables and is_stream(texts):
        return
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise InputError("iterating over this gives names, not texts; give one column or .values()")


def known_length(texts: object) -> int | None:
    """How many texts there are, where that is known, as of an array, a list or a column of a data frame."""
    return len(texts) if isinstance(texts, Sized) else None


def rows_of(records: Source | Store | ArrowStream) -> Source:
    """Raises ConfigError for a table in Arrow's form that has no column of texts."""
    if isinstance(records, Store):
        return records.rows()
    values: Any = records
    source: Source = batches_of(values) if is_stream(values) else values
    return source


async def space_of(records: object) -> Space | None:
    """The space of the vectors that the records carry, if they are rows of a store."""
    if isinstance(records, Store):
        return (await records.info()).space
    space = getattr(records, "space", None)
    return space if isinstance(space, Space) else None

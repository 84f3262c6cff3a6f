"""Stage 1: whatever the caller iterates over becomes chunks of records."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import count, islice
from math import inf
from typing import Any, TypeAlias

import anyio

from aembed.errors import InputError, SourceError
from aembed.protocols import Store
from aembed.types import Embedded, Failure, Record

CHUNK = 256
"""Records looked up in the store at once, and the most that are read without giving way to the loop."""

Source: TypeAlias = Iterable[Any] | AsyncIterable[Any]
Read: TypeAlias = Record | Failure
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
        case Record() | Failure():
            return value
        case Embedded(id=id, text=str(text)):
            return Record(id, text, value.metadata, value.source)
        case Embedded(id=id):
            return Failure(
                id, index, InputError(f"the row {id!r} was stored without its text; it cannot be re-embedded")
            )
        case _:
            error = InputError(f"input {index} must be an aembed.Record(id, text), not {type(value).__name__}")
            return Failure(str(index), index, error)


class Feed:
    """Chunks of a source, in order, with positions: `fill` reads ahead by one chunk while another is worked on.

    A slow source gives small chunks, so that nothing it gave waits for what it will give.
    """

    def __init__(self, source: Source, record: Callable[[int, Any], Read]) -> None:
        self._source = source
        self._record = record
        self._values: list[Any] = []
        self._ended = False
        self.starved = False
        self._error: BaseException | None = None
        self._changed = anyio.Event()

    async def fill(self) -> None:
        try:
            if isinstance(self._source, AsyncIterable):
                async for value in self._source:
                    self._values.append(value)
                    if len(self._values) in (1, CHUNK):
                        await self._offered()
            else:
                await self._fill_from(iter(self._source))
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -inf:
                raise
            self._error = error  # The source's own: a task that it waits for was cancelled.
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._notify()

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
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


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

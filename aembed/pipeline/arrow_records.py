"""Records of what is in Arrow's form: data frames, tables and readers as a whole, or batches of rows one by one.

Whatever has Arrow's C stream interface is taken: of pyarrow, pandas, polars, DuckDB and others. The column `text` has
the texts, `id` the ids, where there is one; all others are metadata.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from importlib import import_module
from itertools import chain
from typing import Any, Protocol

import anyio.to_thread

from aembed.errors import ConfigError
from aembed.results import Failure
from aembed.stores._arrow import import_pyarrow
from aembed.types import Embedded, Record, Unread

_VALUES = frozenset({Record, str, Failure, Embedded, Unread})
"""What most values are, which need not be looked at."""
WHAT = "a table in Arrow's form"


class ArrowStream(Protocol):
    """A table in Arrow's form, as records: a data frame, a reader of batches."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class ArrowBatch(Protocol):
    """Some rows of a table in Arrow's form, as records: a RecordBatch."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> object: ...


def is_stream(source: object) -> bool:
    """Whether it gives rows in Arrow's form. A single column, as of polars, is iterated over as a list is."""
    return hasattr(source, "__arrow_c_stream__") and (hasattr(source, "columns") or hasattr(source, "schema"))


def batches_of(source: Any) -> AsyncIterator[Any]:
    """The batches of a stream. They are made in a thread: a data frame may have to be converted, a file to be read.

    Raises ConfigError at once where pyarrow is not installed, or where it can be seen that there is no column of texts.
    """
    pa = import_pyarrow(WHAT)
    names = getattr(source, "column_names", None) or getattr(source, "columns", None)
    if names is not None:
        _check_names(list(names))
    return _batches(pa, source)


async def _batches(pa: Any, source: Any) -> AsyncIterator[Any]:
    batches = await anyio.to_thread.run_sync(pa.RecordBatchReader.from_stream, source)
    while (batch := await anyio.to_thread.run_sync(next, batches, None)) is not None:
        yield batch


class Unpacker:
    """Takes batches apart into records, and leaves other values as they are. Rows without an id are numbered."""

    def __init__(self) -> None:
        self._count = 0

    def all_of(self, values: Iterator[Any]) -> Iterator[Any]:
        """The first value decides: what is no batch costs nothing."""
        for first in values:
            rest = chain([first], values)
            return chain.from_iterable(map(self.records_in, rest)) if _is_batch(first) else rest
        return iter(())

    def records_in(self, value: Any) -> Iterable[Any]:
        return self._records(value) if _is_batch(value) else (value,)

    def _records(self, value: Any) -> Iterator[Record | Failure]:
        # Here, where there are batches: it imports pyarrow, and the readers of files beside it.
        pa, arrow = import_pyarrow(WHAT), import_module("aembed.sources._arrow")
        has_stream = hasattr(value, "__arrow_c_stream__")
        for batch in pa.RecordBatchReader.from_stream(value) if has_stream else [pa.record_batch(value)]:
            names = batch.schema.names
            _check_names(names)
            kept = [name for name in names if name not in ("id", "text") and not arrow.INDEX.fullmatch(name)]
            for row in arrow.read_rows(batch, ("id", "text")):
                number, self._count = self._count, self._count + 1
                if isinstance(row, arrow.BrokenRow):
                    yield Failure(str(number) if row.id is None else row.id, number, row.error)
                else:
                    metadata = {name: row[name] for name in kept} or None
                    yield Record(row["id"] if "id" in row else str(number), row["text"], metadata)


def _is_batch(value: object) -> bool:
    if type(value) in _VALUES:
        return False
    return hasattr(value, "__arrow_c_array__") or is_stream(value)


def _check_names(names: list[Any]) -> None:
    if "text" not in names:
        has = ", ".join(map(repr, names[:20]))
        raise ConfigError(f"the table has no column 'text'; it has {has}: rename the column that holds the texts")

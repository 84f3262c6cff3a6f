"""Arrow's record batches -> rows of values as JSON has them. Imported where there are some: it imports pyarrow."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, TypeAlias
from uuid import UUID

import pyarrow as pa

from aembed.errors import InputError

Row: TypeAlias = dict[str, Any]

# Chosen: as many as a job looks up at once. Larger, the event loop is held for longer where rows are made on it.
_ROWS_AT_ONCE = 256
INDEX = re.compile(r"__index_level_\d+__")
"""The columns in which pandas keeps an index without a name: they are no fields of a row."""


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row with a value that cannot be read. Its id is None where that is the one."""

    id: str | None
    error: InputError


def read_rows(batch: Any, named: Sequence[str]) -> Iterator[Row | BrokenRow]:
    """The rows of a batch. `named` are the columns of id and text: texts, also where they are kept as bytes."""
    names = batch.schema.names
    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
        part = batch.slice(start, _ROWS_AT_ONCE)
        columns = [_values(column, name in named) for name, column in zip(names, part.columns, strict=True)]
        broken = {name for name, values in zip(names, columns, strict=True) if _Unreadable in map(type, values)}
        for values in zip(*columns, strict=True):
            row = dict(zip(names, values, strict=True))
            yield (_broken(row, broken, named[0]) if broken else None) or row


class _Unreadable:
    """In the place of a value: why it cannot be read."""

    def __init__(self, error: Exception) -> None:
        is_text = isinstance(error, UnicodeDecodeError)
        self.reason = "is not UTF-8" if is_text else f"cannot be read ({type(error).__name__})"


def _broken(row: Row, broken: set[str], id_field: str) -> BrokenRow | None:
    for name in broken:
        if isinstance(value := row[name], _Unreadable):
            held = row.get(id_field)
            id = str(held) if isinstance(held, str | int) else None
            of = "" if id is None else f" of id {id!r}"
            return BrokenRow(id, InputError(f"the field {name!r}{of} {value.reason}; correct it or leave the row out"))
    return None


def _values(array: Any, is_named: bool) -> list[Any]:
    """The values of a column, each as JSON has it."""
    type = array.type
    if pa.types.is_timestamp(type) and type.unit == "ns":
        array = array.cast(pa.timestamp("us", type.tz), safe=False)
    elif pa.types.is_duration(type) and type.unit == "ns":
        array = array.cast(pa.duration("us"), safe=False)
    values = _plain(array)
    of = pa.types
    as_in_json = of.is_string, of.is_large_string, of.is_string_view, of.is_integer, of.is_boolean, of.is_null
    if any(test(type) for test in as_in_json):
        return values
    if is_named and any(isinstance(value, bytes) for value in values):
        return [_decode(value) if isinstance(value, bytes) else value for value in values]
    is_map = pa.types.is_map(type)
    return [_json_of(dict(value) if is_map and isinstance(value, list) else value) for value in values]


def _plain(array: Any) -> list[Any]:
    """What pyarrow makes of them; a value of which it can make nothing spoils its own row alone."""
    try:
        values: list[Any] = array.to_pylist()
    except Exception:
        return [_plain_value(each) for each in array]
    return values


def _plain_value(value: Any) -> Any:
    try:
        return value.as_py()
    except Exception as error:
        return _Unreadable(error)


def _decode(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        return _Unreadable(error)


def _json_of(value: Any) -> Any:
    match value:
        case str() | bool() | int() | None | _Unreadable():
            return value
        case float():
            return value if isfinite(value) else None
        case Decimal() if not value.is_finite():
            return None
        case Decimal() if value == value.to_integral_value():
            return int(value)
        case Decimal():
            # A number of JSON where that is the same decimal, else a text: nothing is rounded.
            return float(value) if Decimal(repr(float(value))) == value else str(value)
        case dict():
            return {str(key): _json_of(held) for key, held in value.items()}
        case list() | tuple():
            return [_json_of(each) for each in value]
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return b64encode(value).decode()
        case UUID():
            return str(value)
        case _:
            return _Unreadable(TypeError())

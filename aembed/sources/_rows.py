"""A row of named fields -> a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from aembed.errors import InputError
from aembed.types import Record

Item: TypeAlias = tuple[int | None, Record | InputError]
"""What a reader yields: the line that it stands on (None: a section of a document), and the record or what is wrong."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields hold id, text and metadata. `metadata` None: all the others."""

    id: str = "id"
    text: str = "text"
    metadata: tuple[str, ...] | None = None


def to_record(row: Mapping[str, Any], fields: Fields, source: str | None) -> Record | InputError:
    missing = [name for name in (fields.id, fields.text) if name not in row]
    if missing:
        return InputError(f"it has no field {missing[0]!r}; add it, or name the field that holds it")
    id, text = row[fields.id], row[fields.text]
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        return InputError(f"the field {fields.id!r} is {_kind(id)}; an id is a text or a whole number")
    if not isinstance(text, str):
        return InputError(f"the text of id {str(id)!r} is {_kind(text)}, not a text; correct it or leave the row out")
    return Record(str(id), text, _metadata(row, fields), source)


def _metadata(row: Mapping[str, Any], fields: Fields) -> dict[str, Any] | None:
    if fields.metadata is None:
        return {name: value for name, value in row.items() if name not in (fields.id, fields.text)} or None
    return {name: row[name] for name in fields.metadata if name in row} or None


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case "":
            return "empty"
        case bool() | int() | float():
            return f"a {type(value).__name__}"
        case _:
            return {"dict": "an object", "list": "a list"}.get(type(value).__name__, type(value).__name__)

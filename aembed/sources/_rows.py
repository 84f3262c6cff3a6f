"""A row of named fields -> a record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from aembed.errors import InputError
from aembed.sources._files import File
from aembed.types import Record

NumberedRecord: TypeAlias = tuple[int | None, Record | InputError]
"""What a reader yields: the line that it stands on (None: a section of a document), and the record or what is wrong."""


class NothingToRead(InputError):
    """A file that holds nothing to embed, though its ending would allow for it. In a folder it is skipped."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields hold id, text and metadata.

    `id` None: "id"; where a table has no such field its rows are named by their lines. `metadata` None: all the others.
    `delimiter` None: what the header of a CSV shows.
    """

    id: str | None = None
    text: str = "text"
    metadata: tuple[str, ...] | None = None
    delimiter: str | None = None

    def id_among(self, names: Collection[str], file: File) -> str | None:
        """The field that holds the id; None: there is none. Standard input has no name to make ids of."""
        return None if self.id is None and "id" not in names and file.root is not None else self.id or "id"


def to_record(
    row: Mapping[str, Any], fields: Fields, id_field: str | None, file: File, line: int
) -> Record | InputError:
    """`id_field` None: the id is made of the file's name and the line."""
    if id_field is not None and id_field not in row:
        return InputError(f"it has no field {id_field!r}; add it, or name the field that holds it (--id-field NAME)")
    if fields.text not in row:
        return InputError(no_text_error(fields))
    id = f"{file.name}:{line}" if id_field is None else row[id_field]
    text = row[fields.text]
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        return InputError(f"the field {id_field!r} is {_kind(id)}; an id is a text or a whole number")
    if not isinstance(text, str):
        return InputError(f"the text of id {str(id)!r} is {_kind(text)}, not a text; correct it or leave the row out")
    given = f"{file.name}#{id}" if file.apart and id_field is not None else str(id)
    return Record(given, text, _metadata(row, fields, id_field), file.root)


def no_text_error(fields: Fields) -> str:
    return f"it has no field {fields.text!r}; add it, or name the field that holds it (--text-field NAME)"


def _metadata(row: Mapping[str, Any], fields: Fields, id_field: str | None) -> dict[str, Any] | None:
    if fields.metadata is None:
        return {name: value for name, value in row.items() if name not in (id_field, fields.text)} or None
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

"""JSON: a list of objects or of texts. Other JSON (settings, a package's description) is no table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from aembed.errors import InputError
from aembed.sources._bounds import read_whole
from aembed.sources._files import File
from aembed.sources._rows import Fields, NothingToRead, NumberedRecord, no_text_error, to_record
from aembed.types import Record

_BOM = b"\xef\xbb\xbf"
# Chosen: the first row of a table stands in it as a rule. Smaller, more files that are no tables would be read whole to
# be left out.
_HEAD_BYTES = 100_000
_LIST = re.compile(rb"\s*\[")
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_LIST_OF_TEXT = re.compile(r"\s*\[\s*")
_BROKEN = (UnicodeDecodeError, msgspec.DecodeError, RecursionError)
_NO_LIST = "it is JSON, but not a list of objects or texts"


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    head = stream.read(_HEAD_BYTES)
    if not head.strip():
        raise InputError("it is empty; write a list of objects or texts")
    if not _LIST.match(head.removeprefix(_BOM)):
        raise NothingToRead(f"{_NO_LIST}; write [{{...}}, ...]")
    _id_field(_first_element(head), fields, file)
    content = read_whole(stream, head).removeprefix(_BOM)
    try:
        # Each as it stands, so that the file is never held as Python objects as a whole.
        elements = _ELEMENTS.decode(content)
    except _BROKEN as error:
        raise _broken_error(error) from None
    id_field: str | None = None
    for number, element in enumerate(elements, start=1):
        try:
            row = msgspec.json.decode(element)
        except _BROKEN as error:
            row = _broken_error(error)
        if number == 1:
            id_field = _id_field(row, fields, file)
        yield number, _record(row, fields, id_field, file, number)


def _first_element(head: bytes) -> Any:
    """The first element, where all of it was read already, else an empty text. What is broken is told later on."""
    text = head.decode("utf-8-sig", "replace")
    begin = _LIST_OF_TEXT.match(text)
    try:
        return json.JSONDecoder().raw_decode(text, begin.end() if begin else 0)[0]
    except (ValueError, RecursionError):
        return ""


def _broken_error(error: Exception) -> InputError:
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
        return InputError("it is not UTF-8; convert the file")
    return InputError(f"it is not JSON ({error}); correct it")


def _id_field(first: Any, fields: Fields, file: File) -> str | None:
    """Raises NothingToRead where the first element shows that this is no table of texts."""
    if isinstance(first, str | InputError):
        return None
    if not isinstance(first, dict):
        raise NothingToRead(f"{_NO_LIST}; write [{{...}}, ...]")
    if fields.text not in first:
        raise NothingToRead(f"its first object is no row: {no_text_error(fields)}")
    return fields.id_among(first, file)


def _record(row: Any, fields: Fields, id_field: str | None, file: File, number: int) -> Record | InputError:
    match row:
        case InputError():
            return row
        case str():
            return Record(f"{file.name}:{number}", row, None, file.root)
        case dict():
            return to_record(row, fields, id_field, file, number)
        case _:
            return InputError("it is neither an object nor a text; correct it or leave it out")

"""JSON Lines: one object on each line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import msgspec

from aembed.errors import InputError
from aembed.sources._bounds import check_encoding, read_lines
from aembed.sources._files import File
from aembed.sources._rows import Fields, NumberedRecord, to_record

_BOM = b"\xef\xbb\xbf"

Object: TypeAlias = dict[str, Any]


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    id_field, undecided = fields.id, True
    for number, line in enumerate(read_lines(stream), start=1):
        if number == 1 and isinstance(line, bytes):
            check_encoding(line)
        row = line if isinstance(line, InputError) else _parse_line(line.removeprefix(_BOM) if number == 1 else line)
        if isinstance(row, dict):
            if undecided:  # the first object shows whether the file has ids of its own
                id_field, undecided = fields.id_among(row, file), False
            yield number, to_record(row, fields, id_field, file, number)
        elif row is not None:
            yield number, row


def _parse_line(line: bytes) -> Object | InputError | None:
    if not line.strip():
        return None
    try:
        row = msgspec.json.decode(line)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        # msgspec up to 0.22 raises UnicodeDecodeError for that, later ones a DecodeError that says UTF-8.
        if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
            return InputError("it is not UTF-8; convert the file")
        return InputError(f"it is not a JSON object on one line ({error}); correct it")
    if not isinstance(row, dict):
        return InputError("it is JSON, but not an object; write one {...} on each line")
    return row

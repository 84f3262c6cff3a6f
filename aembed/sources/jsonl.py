"""JSON Lines: one object on each line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from aembed.errors import InputError
from aembed.sources._bounds import lines
from aembed.sources._files import File
from aembed.sources._rows import Fields, Item, to_record
from aembed.types import Record

_BOM = b"\xef\xbb\xbf"


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[Item]:
    for number, line in enumerate(lines(stream), start=1):
        if isinstance(line, InputError):
            yield number, line
            continue
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield number, _parsed(line, fields, file.root)


def _parsed(line: bytes, fields: Fields, source: str | None) -> Record | InputError:
    try:
        row = msgspec.json.decode(line)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        # msgspec up to 0.22 raises UnicodeDecodeError for that, later ones a DecodeError that says UTF-8.
        if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
            return InputError("it is not UTF-8; convert the file")
        return InputError(f"it is not a JSON object on one line ({error}); correct it")
    if not isinstance(row, dict):
        return InputError("it is JSON, but not an object; write one {...} on each line")
    return to_record(row, fields, source)

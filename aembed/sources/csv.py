"""CSV and TSV with a header row. A field may span lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeAlias

from aembed.errors import InputError
from aembed.sources._bounds import MAX_BYTES, too_large
from aembed.sources._files import File
from aembed.sources._rows import Fields, Item, to_record
from aembed.types import Record

_MAX_FIELD_CHARACTERS = 2**31 - 1
"""What a C long holds on every system."""

_NAME_CHARACTERS = 1_000
"""Of a column: each row repeats it in its metadata."""

Row: TypeAlias = tuple[int, list[str] | InputError]
"""The line on which it begins, and its fields or what is wrong with it."""


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[Item]:
    # The csv module's limit is one for the process: it is only ever raised, so that readers cannot disturb each other.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARACTERS))
    # Bytes that are not UTF-8 become lone surrogates (PEP 383), so that they spoil their own row only.
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _items(_rows(_Lines(text), "\t" if file.ending == ".tsv" else ","), fields, file.root)


def _items(rows: Iterator[Row], fields: Fields, source: str | None) -> Iterator[Item]:
    _, header = next(rows, (1, []))
    wanted = [fields.id, fields.text]
    if isinstance(header, InputError) or not set(wanted) <= set(header):
        yield 1, _no_header(wanted, header)
        return
    if any(len(name) > _NAME_CHARACTERS for name in header):
        yield 1, InputError(f"a column's name has more than {_NAME_CHARACTERS:,} characters; shorten it")
        return
    for line, row in rows:
        yield line, row if isinstance(row, InputError) else _record(header, row, fields, source)


class _Lines(Iterator[str]):
    """The lines of a table. Raises InputError where one row has more of them than may be held in memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._room = MAX_BYTES

    def begin_row(self) -> None:
        self._room = MAX_BYTES

    def __next__(self) -> str:
        line = self._text.readline(self._room + 1)
        self._room -= len(line)
        if self._room < 0:
            raise too_large()
        if not line:
            raise StopIteration
        return line


def _rows(lines: _Lines, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except InputError as error:
            yield line, error  # a quote that is not closed, as a rule: nobody knows where the next row begins
            return
        except csv.Error as error:
            yield line, InputError(f"it is not valid CSV ({error}); double each quote inside a quoted field")
        else:
            if row:
                yield line, row


def _record(header: Sequence[str], row: Sequence[str], fields: Fields, source: str | None) -> Record | InputError:
    if len(row) != len(header):
        return InputError(f"it has {len(row)} fields, the header {len(header)}; quote a field that holds the delimiter")
    if any("\udc80" <= character <= "\udcff" for value in row if not value.isascii() for character in value):
        return InputError("it is not UTF-8; convert the file")
    return to_record(dict(zip(header, row, strict=True)), fields, source)


def _no_header(wanted: Sequence[str], header: Sequence[str] | InputError) -> InputError:
    names = [] if isinstance(header, InputError) else [name for name in header if name.isprintable()]
    needed = " and ".join(repr(name) for name in wanted)
    return InputError(f"the header row must name {needed}; it names {names!r}: name the fields that hold them")

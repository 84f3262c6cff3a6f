"""CSV and TSV with a header row, whatever separates their fields. A field may span lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, TypeAlias

from aembed.errors import InputError
from aembed.sources._bounds import MAX_BYTES, check_encoding, too_large_error
from aembed.sources._files import File
from aembed.sources._rows import Fields, NumberedRecord, to_record
from aembed.types import Record

_MAX_FIELD_CHARACTERS = 2**31 - 1
"""What a C long holds on every system."""

# Chosen: what is read past is not kept. Smaller, a line of gigabytes takes more calls.
_CHUNK = 1_000_000
# Chosen: a second. Larger, a file of gigabytes that is a single line is read for a minute.
_MOST_PASSED = 8 * MAX_BYTES
_EXCEL = re.compile(r"sep=([^\r\n\"])\r?\n?", re.IGNORECASE)
# Chosen: enough to see that the separator is another one, on a line that can be read.
_SHOWN_NAMES = 20
# Chosen: more than any header has. Larger, a file without line breaks would be split at every separator that is tried.
_HEADER_CHARACTERS = 100_000
# Chosen: a name that long is text in which a quote was not closed.
_NAME_CHARACTERS = 1_000
"""Of a column: each row repeats it in its metadata."""

Row: TypeAlias = tuple[int, list[str] | InputError]
"""The line on which it begins, and its fields or what is wrong with it."""


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    # The csv module's limit is one for the process: it is only ever raised, so that readers cannot disturb each other.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARACTERS))
    # Bytes that are not UTF-8 become lone surrogates (PEP 383), so that they spoil their own row only.
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _items(_Lines(text), fields, file)


def _items(lines: _Lines, fields: Fields, file: File) -> Iterator[NumberedRecord]:
    delimiter = _find_delimiter(lines, fields, file)
    rows = _rows(lines, delimiter)
    number, header = next(rows, (1, []))
    wanted = [name for name in (fields.id, fields.text) if name is not None]
    if isinstance(header, InputError) or not set(wanted) <= set(header):
        yield number, _no_header_error(wanted, header, delimiter)
        return
    if twice := [name for name in wanted if header.count(name) > 1]:
        yield number, InputError(f"the header row has two columns named {twice[0]!r}; give one of them another name")
        return
    if any(len(name) > _NAME_CHARACTERS for name in header):
        yield number, InputError(f"a column's name has more than {_NAME_CHARACTERS:,} characters; shorten it")
        return
    id_field = fields.id_among(header, file)
    for line, row in rows:
        yield line, row if isinstance(row, InputError) else _record(header, row, fields, id_field, file, line)


def _find_delimiter(lines: _Lines, fields: Fields, file: File) -> str:
    """The one that the user names, or Excel's line `sep=;`, or the one by which the header has the names looked for."""
    first = lines.peek()[:_HEADER_CHARACTERS]
    check_encoding(first[:2].encode("utf-8", "surrogateescape"))
    if found := _EXCEL.fullmatch(first):
        lines.skip()
        return fields.delimiter or found[1]
    # Of separators that fit equally well the first one wins: so a .tsv has tabs, and any other file commas.
    tried = "\t,;|" if file.ending == ".tsv" else ",;\t|"
    return fields.delimiter or max(tried, key=lambda delimiter: _fitness(first, delimiter, fields))


def _fitness(header: str, delimiter: str, fields: Fields) -> tuple[bool, bool, int]:
    """The text counts most, then the id, then the number of columns; of equals the first one is taken."""
    try:
        names = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        names = []
    return fields.text in names, (fields.id or "id") in names, len(names)


class _Lines(Iterator[str]):
    """The lines of a table. Raises InputError where one row has more of them than may be held in memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._room = MAX_BYTES
        self._peeked = ""
        self._cut: str | None = None
        """What was read of the first line of a row."""
        self.skipped = 0

    def begin_row(self) -> None:
        self._room = MAX_BYTES

    def peek(self) -> str:
        """The first line, as far as it goes without a limit of its own."""
        self._peeked = self._text.readline(MAX_BYTES + 1)
        return self._peeked

    def skip(self) -> None:
        self._peeked = ""
        self.skipped += 1

    def pass_over(self) -> bool:
        """Whether the row that was too large is a single line, of which the rest is left out."""
        piece, quotes, passed = self._cut or "", 0, 0
        while passed < _MOST_PASSED and piece:
            quotes += piece.count('"')
            if piece.endswith(("\n", "\r")):
                return quotes % 2 == 0
            passed += len(piece)
            piece = self._text.readline(_CHUNK)
        return False

    def __next__(self) -> str:
        line, self._peeked = self._peeked or self._text.readline(self._room + 1), ""
        self._cut = line if self._room == MAX_BYTES else None
        self._room -= len(line)
        if self._room < 0:
            raise too_large_error()
        if not line:
            raise StopIteration
        return line


def _rows(lines: _Lines, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + lines.skipped + 1
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except InputError as error:
            if not lines.pass_over():
                # A quote that is not closed, as a rule: nobody knows where the next row begins.
                yield line, InputError(f"{error}; what comes after it in the file is not read")
                return
            yield line, error
            lines.skipped, reader = line, csv.reader(lines, delimiter=delimiter, strict=True)
        except csv.Error as error:
            yield line, InputError(f"it is not valid CSV ({error}); double each quote inside a quoted field")
        else:
            if row:
                yield line, row


def _record(
    header: Sequence[str], row: Sequence[str], fields: Fields, id_field: str | None, file: File, line: int
) -> Record | InputError:
    if len(row) != len(header):
        return InputError(f"it has {len(row)} fields, the header {len(header)}; quote a field that holds the delimiter")
    if any("\udc80" <= character <= "\udcff" for value in row if not value.isascii() for character in value):
        return InputError("it is not UTF-8; convert the file")
    return to_record(dict(zip(header, row, strict=True)), fields, id_field, file, line)


def _no_header_error(wanted: Sequence[str], header: Sequence[str] | InputError, delimiter: str) -> InputError:
    names = [] if isinstance(header, InputError) else [name for name in header if name.isprintable()]
    shown = names if len(names) <= _SHOWN_NAMES else [*names[:_SHOWN_NAMES], "..."]
    needed = " and ".join(repr(name) for name in wanted)
    return InputError(
        f"the header row must name {needed}; split at {delimiter!r} it names {[name[:40] for name in shown]!r}: "
        "say which fields hold text and id (--text-field NAME, --id-field NAME), or what separates them (--delimiter)"
    )

"""What files of Arrow and Parquet have in common: their columns, their rows, and what is said of broken ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from aembed.errors import InputError
from aembed.sources._arrow import INDEX, BrokenRow, read_rows
from aembed.sources._bounds import MAX_BYTES, too_large_error
from aembed.sources._files import File
from aembed.sources._rows import Fields, NothingToRead, NumberedRecord, to_record
from aembed.types import Record

# Chosen: enough to see how the columns are named, on a line that can be read.
_SHOWN_NAMES = 20


@contextmanager
def explain_broken(format: str, file: File) -> Iterator[None]:
    """Raises InputError for what pyarrow cannot read, and before it for a file that was compressed once more."""
    if os.fspath(file.place).lower().endswith(".gz"):
        raise InputError(f"it is {format} as .gz, which cannot be read from its end; unpack it")
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # For a broken page pyarrow raises an OSError that has no errno.
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).partition("\n")[0][:200]
        way_out = "write it again"
        # pyarrow (at 25.0.1) writes NULL among fixed-size lists into Parquet, and cannot read such a column.
        if reason.startswith("Expected all lists to be of size"):
            way_out = "NULL among lists of a fixed size; keep the other columns (--metadata-fields NAME,...)"
        raise InputError(f"it is not {format}, or broken ({reason}); {way_out}") from None


def wanted_columns(names: list[str], fields: Fields, file: File) -> list[str]:
    """Those of id, text and metadata. Raises NothingToRead where there is no text, InputError where there is no id."""
    id_field = fields.id_among(names, file)
    for name, flag in ((fields.text, "--text-field"), (id_field, "--id-field")):
        if name is not None and name not in names:
            has = ", ".join(map(repr, names[:_SHOWN_NAMES]))
            told = f"it has no field {name!r}; it has {has}: add it, or name the field that holds it ({flag} NAME)"
            raise NothingToRead(told) if name == fields.text else InputError(told)
        if name is not None and names.count(name) > 1:
            raise InputError(f"it has two fields named {name!r}; give one of them another name")
    kept = [name for name in names if not INDEX.fullmatch(name)] if fields.metadata is None else fields.metadata
    wanted = {*kept, fields.text, id_field}
    return [name for name in dict.fromkeys(names) if name in wanted]


def numbered(batches: Iterable[Any], names: list[str], fields: Fields, file: File) -> Iterator[NumberedRecord]:
    id_field = fields.id_among(names, file)
    named = id_field or "", fields.text
    number = 0
    for batch in batches:
        for row in read_rows(batch, named):
            number += 1
            if isinstance(row, BrokenRow):
                yield number, row.error
                continue
            record = to_record(row, fields, id_field, file, number)
            is_too_large = isinstance(record, Record) and len(record.text) > MAX_BYTES
            yield number, too_large_error() if is_too_large else record

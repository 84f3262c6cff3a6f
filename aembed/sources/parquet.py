"""Parquet: row groups are read a page at a time, and of the columns those that are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pyarrow import parquet

from aembed.sources._arrow_files import explain_broken, numbered, wanted_columns
from aembed.sources._files import File
from aembed.sources._rows import Fields, NumberedRecord

# Chosen: four chunks of a job. Larger, more rows of long texts are held at once; smaller, pyarrow is called more often.
_ROWS_AT_ONCE = 1_024
# Chosen: a page of Parquet has 1 MB, as a rule. Without a buffer all of a column of a row group is read at once, which
# may be all of the file.
_BUFFER_BYTES = 1_000_000


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    with explain_broken("Parquet", file):
        opened = parquet.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        names = wanted_columns(opened.schema_arrow.names, fields, file)
        batches = opened.iter_batches(_ROWS_AT_ONCE, columns=names)
        yield from numbered(batches, names, fields, file)

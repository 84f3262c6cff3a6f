"""Arrow's own files (Feather, `.arrow`): a batch at a time, of a file that may be read at any place, or of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from pyarrow import ipc

from aembed.errors import InputError
from aembed.sources._arrow_files import explain_broken, numbered, wanted_columns
from aembed.sources._files import File
from aembed.sources._rows import Fields, NumberedRecord

# Arrow's columnar format, "IPC File Format"; and Feather's first version, which is another format.
_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    with explain_broken("Arrow", file):
        head = stream.read(len(_FILE))
        stream.seek(0)
        if head.startswith(_FEATHER_1):
            raise InputError("it is Feather of version 1; write it again, as version 2")
        opened: Any = ipc.open_file(stream) if head == _FILE else ipc.open_stream(stream)
        batches = map(opened.get_batch, range(opened.num_record_batches)) if head == _FILE else iter(opened)
        names = wanted_columns(opened.schema.names, fields, file)
        yield from numbered((batch.select(names) for batch in batches), names, fields, file)

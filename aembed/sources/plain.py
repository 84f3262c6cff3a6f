"""Plain text: one section, cut at paragraphs where it is long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from semantic_text_splitter import TextSplitter

from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, decode_text, records
from aembed.sources._rows import Fields, NumberedRecord


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    yield from records(file, [Block(0, "", decode_text(stream))], TextSplitter(MAX_CHARACTERS))

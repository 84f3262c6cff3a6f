"""Plain text: one section, cut at paragraphs where it is long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from semantic_text_splitter import TextSplitter

from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, decoded, records
from aembed.sources._rows import Fields, Item


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[Item]:
    yield from records(file, [Block(0, "", decoded(stream))], TextSplitter(MAX_CHARACTERS))

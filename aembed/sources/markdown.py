"""Markdown, cut into sections along its headings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from semantic_text_splitter import MarkdownSplitter

from aembed.sources._files import File
from aembed.sources._markdown import blocks
from aembed.sources._outline import MAX_CHARACTERS, decode_text, records
from aembed.sources._rows import Fields, NumberedRecord


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    yield from records(file, blocks(decode_text(stream)), MarkdownSplitter(MAX_CHARACTERS))

"""Markdown: ATX and setext headings outside of code, quotes and lists, as CommonMark reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from semantic_text_splitter import MarkdownSplitter

from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, decoded, records
from aembed.sources._rows import Fields, Item

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_BLOCKS = MarkdownIt("commonmark").disable("inline")
_INLINE = MarkdownIt("commonmark")


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[Item]:
    yield from records(file, blocks(decoded(stream)), MarkdownSplitter(MAX_CHARACTERS))


def blocks(text: str) -> Iterator[Block]:
    """The document in order. Front matter belongs to the text before the first heading."""
    lines = text.split("\n")
    level, title, start = 0, "", 0
    for first, last, next_level, content in _headings(_without_front_matter(text)):
        yield Block(level, title, "\n".join(lines[start:first]))
        level, title, start = next_level, _plain(content), last
    yield Block(level, title, "\n".join(lines[start:]))


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """First line, line after the last, level, content."""
    tokens = _BLOCKS.parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.level == 0 and opening.map:
            yield opening.map[0], opening.map[1], int(opening.tag[1]), inline.content


def _without_front_matter(text: str) -> str:
    return _FRONT_MATTER.sub(lambda found: "\n" * found.group().count("\n"), text, count=1)


def _plain(content: str) -> str:
    """A title without its markup: `**Install** with [pip](url)` is `Install with pip`."""
    (inline,) = _INLINE.parseInline(content)
    return " ".join("".join(_text(token) for token in inline.children or ()).split())


def _text(token: Token) -> str:
    match token.type:
        case "softbreak" | "hardbreak":
            return " "
        case "html_inline":
            return ""
        case _:
            return token.content

"""HTML: the text without its markup; h1 to h6 are the headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO

from semantic_text_splitter import TextSplitter

from aembed.errors import InputError
from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, decoded, records
from aembed.sources._rows import Fields, Item

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_DROPPED = frozenset({"script", "style"})
_INLINE = re.compile(
    "a|abbr|b|bdi|bdo|cite|code|data|del|dfn|em|font|i|img|ins|kbd|label|mark|q|s|samp|small|span|strong|sub|sup|time|"
    "tt|u|var|wbr"
)
_PARAGRAPH = re.compile(
    "p|ul|ol|dl|table|pre|blockquote|div|section|article|aside|main|header|footer|nav|figure|form|h[1-6]"
)
_SPACES = re.compile(r"[ \t\n\f]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[Item]:
    yield from records(file, blocks(decoded(stream)), TextSplitter(MAX_CHARACTERS))


def blocks(text: str) -> list[Block]:
    """The page in order. Its title is the heading above all where there is no h1, else its first line.

    Raises InputError for a declaration that the parser cannot get past.
    """
    page = _Page()
    try:
        page.feed(text)
        page.close()
    except AssertionError:
        raise InputError("a <!declaration> in it is broken; repair or remove it") from None
    return page.finished()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks = [Block(0, "", "")]
        self._text: list[str] = []
        self._title = ""
        self._level = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag in _DROPPED or tag in {"pre", "title"}:
            self._open.append(tag)
        if tag in _HEADINGS:
            self._end_block()
            self._level = _HEADINGS[tag]
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HEADINGS and self._level:
            self._begin_block()
        self._break(tag)
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in _DROPPED:
            return
        if "title" in self._open:
            self._title += data
        else:
            self._text.append(data if "pre" in self._open else self._collapsed(data))

    def finished(self) -> list[Block]:
        self._begin_block() if self._level else self._end_block()
        first, *rest = self._blocks
        title = " ".join(self._title.split())
        if not title:
            return self._blocks
        if any(block.level == 1 for block in rest):
            return [Block(0, "", f"{title}\n\n{first.body}"), *rest]
        return [Block(1, title, first.body), *rest]

    def _collapsed(self, data: str) -> str:
        data = _SPACES.sub(" ", data)
        after_break = not self._text or self._text[-1].endswith((" ", "\n"))
        return data.lstrip(" ") if after_break else data

    def _break(self, tag: str) -> None:
        if tag in _DROPPED or _INLINE.fullmatch(tag):
            return
        self._text.append("\n\n" if _PARAGRAPH.fullmatch(tag) else "\t" if tag in {"td", "th"} else "\n")

    def _taken(self) -> str:
        text, self._text = "".join(self._text), []
        return text

    def _end_block(self) -> None:
        if self._level:
            self._begin_block()
        last = self._blocks[-1]
        body = "\n".join(line.rstrip() for line in self._taken().split("\n"))
        self._blocks[-1] = Block(last.level, last.title, last.body + _BLANK_LINES.sub("\n\n", body))

    def _begin_block(self) -> None:
        self._blocks.append(Block(self._level, " ".join(self._taken().split()), ""))
        self._level = 0

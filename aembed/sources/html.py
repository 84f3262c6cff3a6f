"""HTML: the text without its markup; h1 to h6 are the headings.

The page is read as a row of tags and texts, as it is written: no tree is built, so that elements that are never closed,
or nested a thousand deep, cost no more than others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from semantic_text_splitter import TextSplitter
from turbohtml import Tokenizer, TokenType

from aembed.sources._bounds import WorkClock, check_pieces
from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, decode_text, records
from aembed.sources._rows import Fields, NumberedRecord

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

_MARKUP_WITHIN = re.compile(r"<(/?)(?=(?:title|textarea|noscript|noframes|noembed|iframe|xmp|plaintext)[\s/>])", re.I)
"""HTML holds what these contain for plain text. For us it is markup: a browser without scripts shows the content of
noscript, and ids of sections that exist rest on it. So they are given names that mean nothing to HTML."""
_WITHIN = "x-aembed-"

_EMPTY_SCRIPT = re.compile(r"<(?:script|style)(?:\s[^<>]*[\s\"'])?/>", re.I)
"""XHTML's `<script src="..."/>`, which HTML takes for the beginning of one."""


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    yield from records(file, blocks(decode_text(stream)), TextSplitter(MAX_CHARACTERS))


def blocks(text: str) -> list[Block]:
    """The page in order. Its title is the heading above all where there is no h1, else its first line."""
    clock, page = WorkClock(), _Page()
    text = _MARKUP_WITHIN.sub(rf"<\1{_WITHIN}", _EMPTY_SCRIPT.sub("", text))
    # turbohtml makes no objects of attributes then, and no text of ours comes from one.
    tokenizer = Tokenizer(capture_attributes=False)
    for tokens in (tokenizer.feed(text), tokenizer.close()):
        for token in tokens:
            clock.tick()
            match token.type:
                case TokenType.TEXT:
                    page.add_text(token.data or "")
                case TokenType.START_TAG:
                    page.start(_name(token.tag))
                    if token.self_closing:
                        page.end(_name(token.tag))
                case TokenType.END_TAG:
                    page.end(_name(token.tag))
    return page.finish()


def _name(tag: str | None) -> str:
    return (tag or "").removeprefix(_WITHIN)


class _Page:
    def __init__(self) -> None:
        self._blocks = [Block(0, "", "")]
        self._text: list[str] = []
        self._title: list[str] = []
        self._level = 0
        self._open: Counter[str] = Counter()

    def start(self, tag: str) -> None:
        self._open[tag] += 1
        if tag in _HEADINGS:
            self._end_block()
            self._level = _HEADINGS[tag]
        self._break(tag)

    def end(self, tag: str) -> None:
        if tag in _HEADINGS and self._level:
            self._begin_block()
        self._break(tag)
        if self._open[tag]:
            self._open[tag] -= 1

    def add_text(self, data: str) -> None:
        if self._open["script"] or self._open["style"]:
            return
        if self._open["title"]:
            self._title.append(data)
            return
        if not self._open["pre"]:
            data = _SPACES.sub(" ", data)
            if not self._text or self._text[-1].endswith((" ", "\n")):
                data = data.lstrip(" ")
        self._text.append(data)

    def finish(self) -> list[Block]:
        self._begin_block() if self._level else self._end_block()
        first, *rest = self._blocks
        title = " ".join("".join(self._title).split())
        if not title:
            return self._blocks
        if any(block.level == 1 for block in rest):
            return [Block(0, "", f"{title}\n\n{first.body}"), *rest]
        return [Block(1, title, first.body), *rest]

    def _break(self, tag: str) -> None:
        if tag in _DROPPED or _INLINE.fullmatch(tag):
            return
        self._text.append("\n\n" if _PARAGRAPH.fullmatch(tag) else "\t" if tag in {"td", "th"} else "\n")

    def _take_text(self) -> str:
        text, self._text = "".join(self._text), []
        return text

    def _end_block(self) -> None:
        if self._level:
            self._begin_block()
        last = self._blocks[-1]
        body = "\n".join(line.rstrip() for line in self._take_text().split("\n"))
        self._blocks[-1] = Block(last.level, last.title, last.body + _BLANK_LINES.sub("\n\n", body))

    def _begin_block(self) -> None:
        self._blocks.append(Block(self._level, " ".join(self._take_text().split()), ""))
        self._level = 0
        check_pieces(len(self._blocks), "headings")

"""Markdown: ATX and setext headings outside of code, quotes and lists, as CommonMark reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from aembed.sources._bounds import WorkClock, check_pieces
from aembed.sources._outline import Block

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_INLINE = MarkdownIt("commonmark")
# Chosen: inline markup costs markdown-it-py far more time for each character than blocks do. Larger, a heading that is
# a whole page holds up the reading.
_TITLE_CHARACTERS = 4_000
"""Of a heading whose markup is looked at. What is longer is no heading that somebody wrote."""
# Chosen: larger, more memory is held between two harvests; smaller, the list is looked through more often.
_KEPT_TOKENS = 3_000

Heading: TypeAlias = tuple[int, int, int, str]
"""First line, line after the last, level, content."""


def blocks(text: str) -> Iterator[Block]:
    """The document in order. Front matter belongs to the text before the first heading."""
    check_pieces(text.count("\n"), "lines")
    lines = text.split("\n")
    level, title, start = 0, "", 0
    without_front_matter = _FRONT_MATTER.sub(lambda found: "\n" * found.group().count("\n"), text, count=1)
    harvest = _Harvest()
    harvest.take(_BLOCKS.parse(without_front_matter, {"harvest": harvest}))
    for first, last, next_level, content in harvest.headings:
        yield Block(level, title, "\n".join(lines[start:first]))
        level, title, start = next_level, _plain(content), last
    yield Block(level, title, "\n".join(lines[start:]))


class _Harvest:
    """The headings that were found so far. The parser's tokens are let go as it moves on: they take a thousand times
    the memory of a short line.
    """

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self.clock = WorkClock()

    def take(self, tokens: list[Token]) -> None:
        for opening, inline in pairwise(tokens):
            if opening.type == "heading_open" and opening.level == 0 and opening.map:
                self.headings.append((opening.map[0], opening.map[1], int(opening.tag[1]), inline.content))
        tokens.clear()


def _check_time(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A rule that matches nothing: the parser asks it at each block, and at each line of a paragraph."""
    harvest: _Harvest = state.env["harvest"]
    harvest.clock.tick()
    if not silent and len(state.tokens) > _KEPT_TOKENS:
        harvest.take(state.tokens)
    return False


# Bodies stay as they are written, so that the inline rules would work for nothing; titles have a parser of their own.
_BLOCKS = MarkdownIt("commonmark").disable("inline")
_BLOCKS.block.ruler.before("code", "look_on", _check_time, {"alt": ["paragraph", "reference", "blockquote", "list"]})


def _plain(content: str) -> str:
    """A title without its markup: `**Install** with [pip](url)` is `Install with pip`."""
    if len(content) > _TITLE_CHARACTERS:
        return " ".join(content.split())
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

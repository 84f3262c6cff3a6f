"""reStructuredText: titles underlined, or over- and underlined, with a run of one punctuation character."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from semantic_text_splitter import TextSplitter

from aembed.sources._bounds import check_pieces
from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, decode_text, records
from aembed.sources._rows import Fields, NumberedRecord

_RUN = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*")


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    yield from records(file, blocks(decode_text(stream)), TextSplitter(MAX_CHARACTERS))


def blocks(text: str) -> Iterator[Block]:
    """The document in order. A style's level is its place in the order in which the styles first appear."""
    check_pieces(text.count("\n"), "lines")
    lines = text.split("\n")
    styles: list[str] = []
    level, title, start = 0, "", 0
    for first, last, style in _headings(lines):
        yield Block(level, title, "\n".join(lines[start:first]))
        if style not in styles:
            styles.append(style)
        level, title, start = styles.index(style) + 1, lines[last - 2].strip(), last
    yield Block(level, title, "\n".join(lines[start:]))


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """First line, line after the last, style: the underline's character, twice where there is an overline."""
    number = 0
    while number + 1 < len(lines):
        overlined = (
            number + 2 < len(lines)
            and lines[number].rstrip() == lines[number + 2].rstrip()
            and _is_title(lines[number + 1].strip(), lines[number])
        )
        if overlined or _is_underlined(lines, number):
            last = number + (3 if overlined else 2)
            yield number, last, lines[last - 1][0] * (2 if overlined else 1)
            number = last
        else:
            number += 1


def _is_underlined(lines: Sequence[str], number: int) -> bool:
    title, before = lines[number], lines[number - 1] if number else ""
    begins = not before.strip() or before.startswith("..") or bool(_RUN.fullmatch(before))
    return begins and not title[:1].isspace() and _is_title(title.rstrip(), lines[number + 1])


def _is_title(title: str, line: str) -> bool:
    """docutils: an underline shorter than its title counts from four characters on."""
    if not title or _RUN.fullmatch(title) or not _RUN.fullmatch(line):
        return False
    return len(line.rstrip()) >= min(4, len(title))

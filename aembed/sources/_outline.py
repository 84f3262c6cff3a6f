"""A document's headings and bodies -> records, one for each section.

The id is the file's name and the slugged heading path: `install.md#setup/linux`. Text before the first
heading is `install.md`. Of headings with the same path the second is `install.md#setup/linux-2`. A body that is
too long for one record goes on in `install.md#setup/linux~2`, `~3` and so on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from aembed.sources._bounds import limit_seconds, read_whole
from aembed.sources._files import File
from aembed.types import Record

MAX_CHARACTERS = 1200
"""Of one record's body: 200 to 300 tokens of English, what small sentence models read to the end."""

# Chosen: some sixteen records. Smaller, more records would end at the edge of a slice and not at the best break.
_SLICE_CHARACTERS = 20_000
"""What the splitter gets at once: its time grows with the square of a run without a break."""

# Chosen: six levels of such headings stay below the 2,692 bytes that PostgreSQL can index of an id; two long titles
# that begin alike are told apart by their numbers.
_SLUG_CHARACTERS = 80
# Chosen: most of a record (MAX_CHARACTERS) at the most, as the text of a record begins with its titles.
_TITLE_CHARACTERS = 1_000
"""Of one heading. What is longer is a heading that was never closed; it is kept as text of its section."""
_NOT_WORD = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Block:
    """A heading and what stands below it. Level 0 has no title: the text before the first heading."""

    level: int
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Section:
    """`slug` is unique within the document, "" before the first heading; `titles` are those above it and its own."""

    slug: str
    titles: tuple[str, ...]
    body: str


class Splitter(Protocol):
    """Cuts a text at the best breaks into chunks of a size that it was made with."""

    def chunks(self, text: str) -> list[str]: ...


def decode_text(stream: BinaryIO) -> str:
    """The whole file as text with `\\n` line ends. Raises UnicodeDecodeError where it is not UTF-8, InputError where it
    is too large.
    """
    text = read_whole(stream).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def records(file: File, blocks: Iterable[Block], splitter: Splitter) -> Iterator[tuple[None, Record]]:
    """The records of one document. A section without a body gives none; its title stays with its children.

    Raises InputError where making them takes too long.
    """
    numbered = (
        (section, number, part)
        for section in sections(blocks)
        for number, part in enumerate(_parts(section.body, splitter), start=1)
    )
    for section, number, part in limit_seconds(numbered):
        yield None, _record(file, section, number, part)


def sections(blocks: Iterable[Block]) -> Iterator[Section]:
    above: list[tuple[int, str, str]] = []
    taken: Counter[str] = Counter()
    for level, title, body in ((block.level, block.title, block.body) for block in blocks):
        if len(title) > _TITLE_CHARACTERS:
            title, body = title[:_TITLE_CHARACTERS].rstrip(), f"{title}\n\n{body}"
        if level:
            above = [heading for heading in above if heading[0] < level]
            parent = f"{above[-1][2]}/" if above else ""
            above.append((level, title, _free(parent + slug_of(title), taken)))
        if body.strip():
            titles = tuple(heading[1] for heading in above)
            # Each section repeats the titles above it: those that fit into a record, the outermost left out first.
            while sum(map(len, titles)) > MAX_CHARACTERS:
                titles = titles[1:]
            yield Section(above[-1][2] if above else "", titles, body)


def slug_of(title: str) -> str:
    """Lower case, runs of anything but letters, digits and underscores as one hyphen."""
    slug = _NOT_WORD.sub("-", unicodedata.normalize("NFC", title).lower()).strip("-")
    return slug[:_SLUG_CHARACTERS].strip("-") or "section"


def _free(slug: str, taken: Counter[str]) -> str:
    number = taken[slug] + 1
    candidate = slug if number == 1 else f"{slug}-{number}"
    while candidate in taken:
        number += 1
        candidate = f"{slug}-{number}"
    taken[slug] = number
    taken[candidate] = max(taken[candidate], 1)
    return candidate


def _parts(body: str, splitter: Splitter) -> Iterator[str]:
    body = body.strip("\n").rstrip()
    if len(body) <= MAX_CHARACTERS:
        yield body
        return
    start = 0
    while start < len(body):
        end = start + _SLICE_CHARACTERS
        blank = body.rfind("\n\n", start + 1, end) if end < len(body) else -1
        end = end if blank < 0 else blank
        yield from splitter.chunks(body[start:end])
        start = end


def _record(file: File, section: Section, number: int, part: str) -> Record:
    later = number > 1
    fragment = f"#{section.slug}" if section.slug else ""
    metadata: dict[str, Any] = {"path": file.name, "heading": " > ".join(section.titles)}
    if later:
        metadata["part"] = number
    titles = "\n".join(section.titles)
    text = f"{titles}\n\n{part}" if titles else part
    return Record(f"{file.name}{fragment}{f'~{number}' if later else ''}", text, metadata, file.root)

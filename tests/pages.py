"""The README and the pages of docs/, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^( *)```(\S+) ?(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is the word after the language: how the block is run, or that it is not (`before`, `cluster`)."""

    page: str
    line: int
    language: str
    kind: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str = "", kind: str | None = None, page: str = "") -> list[Block]:
    """In the order of the pages; of all pages, languages and kinds that are not named."""
    return [
        block
        for path in PAGES
        if page in ("", path.name)
        for block in _blocks_of(path)
        if language in ("", block.language) and kind in (None, block.kind)
    ]


def _blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(path.name, text.count("\n", 0, found.start()) + 1, found[2], found[3], dedent(found[4]))


def prose(path: Path) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", path.read_text(encoding="utf-8"))

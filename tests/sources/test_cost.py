"""What reading a document costs, and that existing sections stay what they were."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aembed.errors import InputError
from aembed.results import Failure
from aembed.sources import READERS, _bounds, open_paths
from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS
from aembed.sources._rows import Fields
from aembed.types import Record

PAGES = Path(__file__).parent / "pages"
SIZE = 40_000


def repeated(part: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda size: before + part * (size // len(part)) + after


def under_a_long_heading(size: int) -> str:
    return f"<h1>{'x' * (size // 2)}</h1>" + "<h2>a</h2>b" * (size // 22)


def under_a_long_title(size: int) -> str:
    return "x" * (size // 4) + "\n" + "=" * (size // 4) + "\n\n" + "b\n-\n\nc\n\n" * (size // 18)


def staircase(size: int) -> str:
    lines: list[str] = []
    while sum(map(len, lines[-1:])) * len(lines) < 2 * size:
        lines.append("  " * len(lines) + "- a\n")
    return "".join(lines)


SHAPES: dict[str, Callable[[int], str]] = {
    "pre that is not closed.html": repeated("<pre>x "),
    "title that is not closed.html": repeated("<title>x "),
    "headings that are not closed.html": repeated("<h1>x"),
    "scripts that are empty.html": repeated("<script/>"),
    "script tag that does not end.html": repeated('<script "'),
    "noscript in noscript.html": repeated("<noscript>"),
    "comments that do not end.html": repeated("<!--x"),
    "sections that do not end.html": repeated("<![cdata[x"),
    "declarations that do not end.html": repeated("<!x"),
    "instructions that do not end.html": repeated("<?x"),
    "tags that do not end.html": repeated("<a "),
    "end tags that do not end.html": repeated("</a"),
    "attributes that do not end.html": repeated('<a b="'),
    "scripts that do not end.html": repeated("</scrip", before="<script>"),
    "references that do not end.html": repeated("&amp"),
    "divisions.html": repeated("<div>x"),
    "forms and tables.html": repeated("<table><form>x"),
    "fonts in paragraphs.html": repeated("<p><font size=1><b>x"),
    "sections under a long heading.html": under_a_long_heading,
    "brackets.md": repeated("[", before="# "),
    "images.md": repeated("![", before="# "),
    "emphasis.md": repeated("*a **a ", before="# "),
    "ticks.md": repeated("`a``b", before="# "),
    "angles.md": repeated("<!-- <a ", before="# "),
    "quotes.md": repeated("> "),
    "lists.md": repeated("- "),
    "staircase.md": staircase,
    "definitions.md": repeated("[a]: b\n"),
    "front matter.md": repeated("---\n"),
    "one paragraph.md": repeated("a\n"),
    "a long underline.rst": repeated("="),
    "titles.rst": repeated("a\n=\n"),
    "sections under a long title.rst": under_a_long_title,
    "one word.txt": repeated("x"),
    "marks.txt": repeated("\u0301"),
    "quotes.csv": repeated('"', before="id,text\n"),
    "broken rows.csv": repeated('"a\n', before="id,text\n"),
    "columns.csv": lambda size: "id,text" + ",a" * (size // 4) + "\n" + "1\n" * (size // 4),
    "a long column.csv": lambda size: "id,text," + "x" * (size // 2) + "\n" + "1,a,\n" * (size // 10),
    "brackets.jsonl": repeated("["),
    "objects.jsonl": repeated('{"id":"1","text":"a"}\n'),
}


def read(name: str, content: str) -> list[Record]:
    ending = Path(name).suffix
    file = File(Path("/docs") / name, name, "/docs", ending)
    items = READERS[ending](file, io.BytesIO(content.encode()), Fields())
    return [item for _, item in items if isinstance(item, Record)]


def cost(name: str, content: str) -> tuple[float, int]:
    """Seconds of the processor, the least of three, and the size of what comes out."""
    spent = []
    for _ in range(3):
        begun = time.thread_time()
        found = read(name, content)
        spent.append(time.thread_time() - begun)
    written = sum(len(record.id) + len(record.text) + len(json.dumps(record.metadata)) for record in found)
    return min(spent), written


@pytest.mark.parametrize("name", SHAPES)
def test_d4_four_times_the_document_is_not_sixteen_times_the_work(name: str) -> None:
    small, small_written = cost(name, SHAPES[name](SIZE))
    large, large_written = cost(name, SHAPES[name](4 * SIZE))
    assert large < 8 * small + 0.02
    assert large_written <= 8 * small_written + 1_000


def test_d4_sections_that_stores_hold_keep_their_ids_and_texts() -> None:
    """`sections.json` was written by the reader that the first stores were made with."""
    held = json.loads((PAGES / "sections.json").read_text(encoding="utf-8"))
    for name, sections in held.items():
        found = [record for record in open_paths([PAGES / name]).records() if isinstance(record, Record)]
        assert [[record.id, record.text, record.metadata] for record in found] == sections
    assert len(held) == len(list(PAGES.iterdir())) - 1


def test_d4_a_heading_that_is_never_closed_is_text_too() -> None:
    words = " ".join(map(str, range(3_000)))
    found = read("a.html", f"<h1>Title</h1><p>before<h2>{words}")
    assert found[0].text == "Title\n\nbefore"
    assert " ".join(record.text.split("\n\n")[-1] for record in found[1:]).split() == words.split()
    assert max(len(record.text) for record in found) < 3 * MAX_CHARACTERS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.html", "<p>x" * 20_000),
        ("a.md", "x\n" * 20_000),
        ("b.md", "# x\n\nx\n\n" * 20_000),
        ("a.rst", "x\n=\n\nx\n\n" * 20_000),
    ],
)
def test_d4_a_document_that_takes_too_long_is_skipped_in_one_line(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bounds, "MAX_SECONDS", 0.001)
    (tmp_path / name).write_text(content)
    (tmp_path / "z.txt").write_text("words")
    *some, failure, last = open_paths([tmp_path]).records()
    assert all(isinstance(item, Record) for item in some)
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, InputError)
    assert str(failure.error).startswith(f"{name}: skipped: reading it takes more than")
    assert last == Record("z.txt", "words", {"path": "z.txt", "heading": ""}, tmp_path.as_posix())

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.sources import READERS, html, markdown, rst
from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, Block, sections, slug_of
from aembed.sources._rows import Fields
from aembed.types import Record

Outline = list[tuple[int, str, str]]
"""Level, title, body."""

WORDS = st.text("abc é", min_size=1, max_size=30).map(str.strip).filter(bool)
HEADINGS = st.tuples(
    st.integers(1, 4), st.sampled_from(["Setup", "Linux", "setup", "linux 2", "Linux-2", "ß"]), WORDS | st.just("")
)
OUTLINES = st.lists(HEADINGS, max_size=12)


def as_markdown(outline: Outline) -> str:
    return "\n".join(f"{'#' * level} {title}\n\n{body}\n" for level, title, body in outline)


def as_html(outline: Outline) -> str:
    return "".join(f"<h{level}>{title}</h{level}><p>{body}</p>" for level, title, body in outline)


def as_rst(outline: Outline) -> str:
    return "\n".join(f"{title}\n{'=-~^'[level - 1] * 12}\n\n{body}\n" for level, title, body in outline)


def read(name: str, text: str | bytes) -> list[Record]:
    ending = "." + name.split(".")[-1]
    stream = io.BytesIO(text.encode() if isinstance(text, str) else text)
    items = READERS[ending](File(Path("/docs") / name, name, "/docs", ending), stream, Fields())
    return [item for _, item in items if isinstance(item, Record)]


def ids(name: str, text: str) -> list[str]:
    return [record.id for record in read(name, text)]


def squeezed(texts: Iterable[str]) -> str:
    return re.sub(r"\s", "", "".join(texts))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("install.md", "Intro\n\n# Setup\n\n## **Linux**\n\nLinux body\n\nWindows\n-------\n\nWindows body\n"),
        (
            "install.rst",
            "Intro\n\n=====\nSetup\n=====\n\nLinux\n-----\n\nLinux body\n\nWindows\n-------\nWindows body\n",
        ),
        (
            "install.html",
            "<p>Intro<h1>Setup</h1><h2>Li<b>nux</b></h2>Linux <i>body</i><h2>Windows</h2><p>Windows\nbody",
        ),
    ],
)
def test_a_section_is_named_by_its_heading_path_and_stands_alone(name: str, text: str) -> None:
    assert read(name, text) == [
        Record(name, "Intro", {"path": name, "heading": ""}, "/docs"),
        Record(
            f"{name}#setup/linux", "Setup\nLinux\n\nLinux body", {"path": name, "heading": "Setup > Linux"}, "/docs"
        ),
        Record(
            f"{name}#setup/windows",
            "Setup\nWindows\n\nWindows body",
            {"path": name, "heading": "Setup > Windows"},
            "/docs",
        ),
    ]


def test_equal_headings_get_an_ordinal_and_a_heading_that_looks_like_one_does_not_collide() -> None:
    text = as_markdown([(1, "A", "x"), (2, "B", "x"), (2, "B-2", "x"), (2, "B", "x"), (1, "A", "x"), (2, "B", "x")])
    assert ids("a.md", text) == ["a.md#a", "a.md#a/b", "a.md#a/b-2", "a.md#a/b-3", "a.md#a-2", "a.md#a-2/b"]


def test_slugs_keep_letters_of_every_script_and_are_never_empty() -> None:
    assert [slug_of(title) for title in ("__slots__", 'The "if" statement', "Größe  (cm)", "設定", "!?")] == [
        "__slots__",
        "the-if-statement",
        "größe-cm",
        "設定",
        "section",
    ]
    assert len(slug_of("long " * 100)) <= 80


def test_what_looks_like_a_markdown_heading_in_code_or_front_matter_is_none() -> None:
    text = "---\ntitle: Guide\n---\n\n# Real\n\n"
    text += "```sh\n# comment\n```\n\n    # indented\n\n> # quoted\n\n<!--\n# hidden\n-->\n"
    assert ids("a.md", text) == ["a.md", "a.md#real"]


def test_what_looks_like_an_rst_heading_is_none() -> None:
    text = "Real\n====\n\nwords\n...\nmore::\n\n    Title\n    =====\n\n"
    text += "-----\n\nwords\n\n===== =====\na     b\n===== =====\n"
    assert ids("a.rst", text) == ["a.rst#real"]


def test_an_rst_title_may_follow_a_label_and_be_longer_than_its_line() -> None:
    assert ids("a.rst", "A\n=\n.. _b:\nLong title\n-----\nx\n") == ["a.rst#a", "a.rst#a/long-title"]


def test_html_keeps_text_title_and_preformatted_lines_and_drops_scripts() -> None:
    page = (
        "<!doctype html><html><head><title>The &amp; page</title><style>p {}</style>"
        "<script>var x = '<p>';</script></head>"
        "<body><p>One\n two<br>three</p><pre>a\n  b</pre><!-- no --><h2>Sub</h2><table><tr><td>1<td>2</table>"
    )
    first, second = read("a.html", page)
    assert (first.id, first.text) == ("a.html#the-page", "The & page\n\nOne two\nthree\n\na\n  b")
    assert (second.id, second.text) == ("a.html#the-page/sub", "The & page\nSub\n\n\t1\t2")
    assert [record.text for record in read("b.htm", "<title>T</title><h1>H</h1>x")] == ["T", "H\n\nx"]


def test_byte_order_mark_and_line_ends_make_no_difference() -> None:
    text = as_markdown([(1, "A", "x\ny"), (2, "B", "z")])
    assert read("a.md", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()) == read("a.md", text)
    assert read("a.md", text.replace("\n", "\r")) == read("a.md", text)


def test_an_empty_document_gives_nothing() -> None:
    assert [read(name, text) for name in ("a.md", "a.rst", "a.html", "a.txt") for text in ("", " \n\n")] == [[]] * 8


@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.txt", "a.html"])
@pytest.mark.parametrize(
    "body", ["Some words in a row. " * 400, "word " * 10 + "\n\n" + "x" * 50_000, "line\n\n" * 3_000]
)
def test_a_long_section_goes_on_in_numbered_parts(name: str, body: str) -> None:
    head = {"a.md": "# T\n\n", "a.rst": "T\n=\n\n", "a.html": "<h1>T</h1><pre>", "a.txt": ""}[name]
    parts = read(name, head + body)
    base = name if name == "a.txt" else f"{name}#t"
    assert [part.id for part in parts] == [base, *(f"{base}~{number}" for number in range(2, len(parts) + 1))]
    bodies = [part.text.removeprefix("T\n\n") for part in parts]
    assert max(map(len, bodies)) <= MAX_CHARACTERS
    assert squeezed(bodies) == squeezed([body])
    assert parts[0].metadata == {"path": name, "heading": "" if name == "a.txt" else "T"}
    assert parts[1].metadata == {**parts[0].metadata, "part": 2}


@pytest.mark.parametrize(("name", "write"), [("a.md", as_markdown), ("a.rst", as_rst), ("a.html", as_html)])
@given(outline=OUTLINES)
def test_ids_are_unique_and_no_body_is_lost(name: str, write: Callable[[Outline], str], outline: Outline) -> None:
    found = read(name, write(outline))
    assert len({record.id for record in found}) == len(found)
    bodies = [record.text.split("\n\n", 1)[1] for record in found]
    assert bodies == [" ".join(body.split()) if name == "a.html" else body for _, _, body in outline if body]
    assert found == read(name, write(outline))


@pytest.mark.parametrize(("name", "write"), [("a.md", as_markdown), ("a.rst", as_rst), ("a.html", as_html)])
@given(outline=OUTLINES.filter(lambda outline: any(body for _, _, body in outline)), data=st.data())
def test_editing_one_section_changes_that_record_only(
    name: str, write: Callable[[Outline], str], outline: Outline, data: st.DataObject
) -> None:
    filled = [number for number, (_, _, body) in enumerate(outline) if body]
    edited = data.draw(st.sampled_from(filled))
    level, title, _ = outline[edited]
    after = read(name, write([*outline[:edited], (level, title, "something new"), *outline[edited + 1 :]]))
    before = read(name, write(outline))
    assert [record.id for record in before] == [record.id for record in after]
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert old == new or number == filled.index(edited)


@pytest.mark.parametrize("blocks", [markdown.blocks, rst.blocks])
@given(text=st.text("ab#=-~`>* .:<!\n\t", max_size=60))
def test_every_line_of_any_text_is_in_a_body_or_a_heading(blocks: Callable[[str], Iterable[Block]], text: str) -> None:
    found = list(blocks(text))
    assert [block for block in found if block.level == 0] == found[:1]
    rest = iter(text.split("\n"))
    assert all(any(line == other for other in rest) for block in found for line in block.body.split("\n") if line)
    kept = sum(len(block.body.split("\n")) for block in found)
    assert len(text.split("\n")) - kept <= 60 * (len(found) - 1)
    assert len({section.slug for section in sections(found)}) == len(list(sections(found)))


@given(text=st.text("ab<>/!-[]&;=\"' \n?h1pretiscl", max_size=80))
def test_any_html_is_read(text: str) -> None:
    assert html.blocks(text)

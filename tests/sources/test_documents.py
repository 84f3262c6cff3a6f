"""Documents that are read with the extra `documents`, sane and hostile ones."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from aembed.errors import ConfigError, InputError
from aembed.results import Failure
from aembed.sources import _bounds, documents, open_paths
from aembed.types import Record
from tests.sources import papers

BODY = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{}</w:body></w:document>'
SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
ENTITIES = '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">{}]>'.format(
    "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
)


def word(body: str, before: str = "") -> bytes:
    return papers.replaced(papers.word(), "word/document.xml", (before + BODY.format(body)).encode())


def sheet(rows: str) -> bytes:
    return papers.replaced(papers.sheet(), "xl/worksheets/sheet1.xml", SHEET.format(rows).encode())


def understated(document: bytes, marks: tuple[tuple[bytes, int], ...] = ((b"PK\1\2", 24), (b"PK\3\4", 22))) -> bytes:
    """A zip that says of each of its files that it holds ten bytes."""
    changed = bytearray(document)
    for mark, offset in marks:
        start = changed.find(mark)
        while start >= 0:
            changed[start + offset : start + offset + 4] = (10).to_bytes(4, "little")
            start = changed.find(mark, start + 4)
    return bytes(changed)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty.docx": lambda: b"",
    "broken.docx": lambda: b"junk",
    "cut.docx": lambda: papers.word()[:5_000],
    "bomb.docx": lambda: word("<w:p><w:r><w:t>" + "A" * 350_000_000 + "</w:t></w:r></w:p>"),
    "understated.docx": lambda: understated(word("<w:p><w:r><w:t>" + "A" * 350_000_000 + "</w:t></w:r></w:p>")),
    "entities.docx": lambda: word("<w:p><w:r><w:t>&j;</w:t></w:r></w:p>", ENTITIES),
    "deep.docx": lambda: word("<w:p>" * 200_000 + "</w:p>" * 200_000),
    "bomb.xlsx": lambda: sheet('<row r="1"><c r="A1"><v>1</v></c></row>' * 9_000_000),
    "cut.pptx": lambda: papers.slides()[:5_000],
    "bomb.epub": lambda: papers.book("<p>" + "A" * 290_000_000 + "</p>"),
    "deep.epub": lambda: papers.book("<div>" * 200_000),
    "unclosed.epub": lambda: papers.book("<pre>x" * 20_000),
    "deep.ipynb": lambda: b'{"cells":' + b"[" * 1_000_000,
    "empty.ipynb": lambda: b"{}",
    "broken.pdf": lambda: b"junk",
    "cut.pdf": lambda: papers.pdf("a")[:200],
    "circle.pdf": lambda: papers.pdf("a").replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]"),
    "deep.pdf": lambda: papers.pdf(stream=zlib.compress(b"BT " + b"[" * 5_000_000)),
    "bomb.pdf": lambda: papers.pdf(stream=zlib.compress(b"q " * 20_000_000)),
    "scan.pdf": lambda: papers.pdf(),
}


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    yield
    assert list(temporary.iterdir()) == []
    assert [child for child in psutil.Process().children() if "_office_process" in " ".join(child.cmdline())] == []


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "sections"),
    [
        ("a.docx", papers.word, {"a.docx#guide": "Intro words.", "a.docx#guide/install": "With pip."}),
        ("a.pptx", papers.slides, {"a.pptx#first-slide": "one point\n\nanother point"}),
        (
            "a.xlsx",
            papers.sheet,
            {"a.xlsx#people": "| name | age |\n| --- | --- |\n| Ann | 3 |", "a.xlsx#places": "| Paris |\n| --- |"},
        ),
        ("a.epub", papers.book, {"a.epub#chapter-one": "It was dark.", "a.epub#chapter-two": "It was bright."}),
        ("a.ipynb", papers.notebook, {"a.ipynb#analysis": "words\n\n```\nprint(1)\n```"}),
        ("a.pdf", lambda: papers.pdf("Hello, world."), {"a.pdf": "Hello, world."}),
    ],
)
def test_documents_are_cut_into_sections(
    name: str, content: Callable[[], bytes], sections: dict[str, str], tmp_path: Path
) -> None:
    path = written(tmp_path / name, content())
    found = [item for item in open_paths([path]).records() if isinstance(item, Record)]
    assert [item.id for item in found] == list(sections)
    for item in found:
        titles, _, body = ("", "", item.text) if "#" not in item.id else item.text.partition("\n\n")
        assert body == sections[item.id]
        assert " > ".join(titles.split("\n")) == (item.metadata or {})["heading"]
    packed = written(tmp_path / f"{name}.gz", gzip.compress(path.read_bytes()))
    assert [item.text for item in open_paths([packed]).records()] == [item.text for item in found]


@pytest.mark.parametrize("name", HOSTILE)
def test_d7_a_hostile_document_is_one_line_and_its_neighbours_are_read(name: str, tmp_path: Path) -> None:
    written(tmp_path / "a.pdf", papers.pdf("first"))
    path = written(tmp_path / name, HOSTILE[name]())
    written(tmp_path / "z.docx", papers.word())
    reading = open_paths([tmp_path]).records()
    first, *failures, _, last = reading
    assert (first.id, last.id) == ("a.pdf", "z.docx#guide/install")
    assert sum(reading.skipped.values()) + len(failures) == 1
    (alone,) = open_paths([path]).records()
    assert isinstance(alone, Failure)
    assert isinstance(alone.error, InputError)
    assert str(alone.error).startswith((f"{name}: skipped: ", f"{name}: it holds no text"))
    assert "\n" not in str(alone.error)


def test_d7_a_document_that_takes_too_long_is_ended_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a.pdf", papers.pdf(stream=zlib.compress(b"(a) Tj T* " * 20_000_000)))
    written(tmp_path / "b.pdf", papers.pdf("words"))
    monkeypatch.setattr(_bounds, "MAX_SECONDS", 3.0)
    failure, record = open_paths([tmp_path]).records()
    assert str(failure).startswith("a.pdf: a.pdf: skipped: reading it takes more than 3 seconds")
    assert record.id == "b.pdf"


def test_d7_a_document_may_not_be_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MAX_BYTES", 1_000)
    (failure,) = open_paths([written(tmp_path / "a.pdf", papers.pdf("words" * 1_000) + b"x" * 1_000)]).records()
    assert "skipped: it holds more than" in str(failure)


def test_two_passes_share_the_process(tmp_path: Path) -> None:
    for number in range(5):
        written(tmp_path / f"{number}.pdf", papers.pdf(f"number {number}"))
    source = open_paths([tmp_path])
    found: list[list[str]] = []

    def read() -> None:
        found.append([item.text for item in source.records() if isinstance(item, Record)])

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[f"number {number}" for number in range(5)]] * 3


def test_a_document_is_read_again_once_it_was_changed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pdf", papers.pdf("first"))
    source = open_paths([path])
    assert [record.text for record in source.records()] == ["first"]
    assert [record.text for record in source.records()] == ["first"]
    written(path, papers.pdf("later on"))
    assert [record.text for record in source.records()] == ["later on"]


def test_a_pass_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        written(tmp_path / name, papers.pdf("words"))
    reading = open_paths([tmp_path]).records()
    next(reading)
    del reading


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        written(tmp_path / name, papers.pdf("words"))
    program = f"""
import os, signal
from aembed.sources import documents, open_paths
reading = open_paths([{str(tmp_path)!r}]).records()
next(reading)
print(documents.OFFICE._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    try:
        psutil.Process(int(ran.stdout)).wait(30)
    except psutil.NoSuchProcess:
        pass


def test_without_the_extra_documents_are_skipped_and_what_to_type_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kreuzberg", None)
    path = written(tmp_path / "a.pdf", papers.pdf("words"))
    for name in (path, tmp_path):
        with pytest.raises(ConfigError, match=r"to read \.pdf:  pip install 'aembed\[documents\]'"):
            open_paths([name])
    written(tmp_path / "a.txt", b"words")
    reading = open_paths([tmp_path]).records()
    assert [item.id for item in reading] == ["a.txt"]
    assert reading.skipped == {".pdf": 1}


def test_the_extra_is_not_imported_here() -> None:
    program = "import sys, aembed.sources; print('kreuzberg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b"False"


def test_a_process_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "broken" / "kreuzberg.py", b"raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    (failure,) = open_paths([written(tmp_path / "a.pdf", papers.pdf("words"))]).records()
    assert "does not start; install 'aembed[documents]' again" in str(failure)

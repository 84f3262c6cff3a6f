"""Files of gigabytes, read by a process that may take half a gigabyte more than it has at first."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aembed.results import Failure
from aembed.sources import _bounds, open_paths
from aembed.types import Record

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on a process's memory")

MILLION = b"words " * 166_667
READER = """
import json, resource, sys
import aembed.sources
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 10**9
resource.setrlimit(resource.RLIMIT_AS, (mapped + 500_000_000,) * 2)
reading = aembed.sources.open_paths([sys.argv[1]]).records()
print(json.dumps([[item.id, len(getattr(item, "text", "")), str(getattr(item, "error", ""))] for item in reading]))
"""


def gigabytes(path: Path, before: bytes, part: bytes, after: bytes = b"") -> None:
    """3 GB, unpacked: 3,000 times one million, each a member of the file."""
    with path.open("wb") as file:
        file.write(gzip.compress(before))
        member = gzip.compress(part)
        for _ in range(3_000_000_000 // len(part)):
            file.write(member)
        file.write(gzip.compress(after))


def read(folder: Path) -> list[tuple[str, int, str]]:
    ran = subprocess.run([sys.executable, "-c", READER, folder], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return [(id, size, error) for id, size, error in json.loads(ran.stdout)]


@pytest.mark.parametrize("ending", [".txt", ".html", ".md", ".rst"])
def test_d7_a_document_of_gigabytes_is_one_line_and_its_neighbours_are_read(tmp_path: Path, ending: str) -> None:
    (tmp_path / "a.txt").write_text("words")
    gigabytes(tmp_path / f"b{ending}.gz", b"", MILLION)
    (tmp_path / "c.txt").write_text("words")
    assert read(tmp_path) == [
        ("a.txt", 5, ""),
        (f"b{ending}.gz", 0, f"b{ending}.gz: skipped: it holds more than 32 MB; split it"),
        ("c.txt", 5, ""),
    ]


def test_d7_a_line_of_gigabytes_is_one_line_and_its_neighbours_are_read(tmp_path: Path) -> None:
    gigabytes(
        tmp_path / "a.jsonl.gz", b'{"id": 1, "text": "a"}\n{"id": 2, "text": "', MILLION, b'"}\n{"id":3,"text":"b"}'
    )
    (tmp_path / "c.txt").write_text("words")
    assert read(tmp_path) == [
        ("1", 1, ""),
        ("a.jsonl.gz:2", 0, "a.jsonl.gz line 2: skipped: it holds more than 32 MB; split it"),
        ("3", 1, ""),
        ("c.txt", 5, ""),
    ]


@pytest.mark.parametrize("part", [MILLION, b'"words"\n' * 125_000])
def test_d7_a_quote_that_is_not_closed_for_gigabytes_is_one_line(tmp_path: Path, part: bytes) -> None:
    gigabytes(tmp_path / "a.csv.gz", b'id,text\n1,a\n2,"', part.replace(b'"', b'""'))
    (tmp_path / "c.txt").write_text("words")
    assert read(tmp_path) == [
        ("1", 1, ""),
        (
            "a.csv.gz:3",
            0,
            "a.csv.gz line 3: skipped: it holds more than 32 MB; split it; what comes after it in the file is not read",
        ),
        ("c.txt", 5, ""),
    ]


def test_d7_a_table_may_be_larger_than_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bounds, "MAX_BYTES", 10_000)
    for name, row in (("a.jsonl", '{{"id": "a{}", "text": "words"}}'), ("b.csv", "b{},words")):
        rows = [row.format(number) for number in range(1_000)]
        (tmp_path / name).write_text("\n".join(["id,text"] * (name == "b.csv") + rows))
    items = list(open_paths([tmp_path]).records())
    assert len(items) == 2_000
    assert not [item for item in items if isinstance(item, Failure)]


def documents(folder: Path, size: int) -> Iterator[Path]:
    for ending in (".txt", ".html", ".md", ".rst"):
        yield folder / f"{size}{ending}"


def test_d7_a_document_may_be_as_large_as_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bounds, "MAX_BYTES", 1_000)
    for size in (1_000, 1_001):
        for path in documents(tmp_path, size):
            path.write_text("words " * (size // 6) + "x" * (size % 6))
    items = list(open_paths([tmp_path]).records())
    assert [item.id for item in items if isinstance(item, Failure)] == [
        path.name for path in sorted(documents(tmp_path, 1_001))
    ]
    assert len([item for item in items if isinstance(item, Record)]) == 4


@pytest.mark.parametrize(
    ("name", "content"), [("a.md", "x\n" * 1_001), ("a.rst", "x\n" * 1_001), ("a.html", "<h1>x</h1>" * 1_001)]
)
def test_d7_a_document_of_too_many_pieces_is_one_line(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bounds, "MAX_PIECES", 1_000)
    (tmp_path / name).write_text(content)
    (failure,) = open_paths([tmp_path]).records()
    assert isinstance(failure, Failure)
    assert str(failure.error).startswith(f"{name}: skipped: it has more than 1,000 ")

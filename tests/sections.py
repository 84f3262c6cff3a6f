"""The corpus of the benchmarks: distinct sections of the standard library's sources and of pydoc's topics.

    python -m tests.sections --out sections.jsonl

The same on each run of one Python version. The tests of the library (Lib/test) come last; some of them are needed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sysconfig
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

SECTIONS = 19_207
MIN_BYTES, MAX_BYTES = 300, 2_500
_BEFORE_DEFINITION_BYTES, _ANYWHERE_BYTES = 500, 900
_SKIPPED = {"site-packages", "dist-packages", "pydoc_data", "__pycache__"}
_TESTS = {"test", "tests", "idle_test"}
_BLANK_LINES = re.compile(r"\n(?:[ \t\f]*\n)+")
_DEFINITION = re.compile(r"[ \t]*(?:@|def |class |async def |[A-Z].*\n[*=~^-]{4,})")


def sections(n: int = SECTIONS) -> list[str]:
    """The first `n` sections, each 300 to 2,500 bytes of UTF-8. Raises LookupError if this Python has fewer."""
    found = list(islice(_distinct(_all_sections()), n))
    if len(found) < n:
        raise LookupError(
            f"{len(found):,} sections of {n:,} wanted in {_library()}; some distributions leave parts of the "
            "standard library out (Debian keeps Lib/test in libpython3-testsuite): use a Python that has all of it"
        )
    return found


def _all_sections() -> Iterator[str]:
    for text in _topics():
        yield from cut(text)
    for path in [*_sources(tests=False), *_sources(tests=True)]:
        yield from cut(path.read_bytes().decode("utf-8", errors="ignore"))


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _sources(*, tests: bool) -> Iterator[Path]:
    library = _library()
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix()):
        parts = set(path.relative_to(library).parts)
        built_on_this_machine = path.name.startswith("_sysconfigdata") or any(p.startswith("config-") for p in parts)
        if not built_on_this_machine and not parts & _SKIPPED and bool(parts & _TESTS) == tests:
            yield path


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def cut(text: str) -> Iterator[str]:
    """Along blank lines, and before a definition where there is enough for a section; never inside a line."""
    section = ""
    for block in _blocks(text):
        joined = f"{section}\n\n{block}" if section else block
        enough = _bytes(section) >= (_BEFORE_DEFINITION_BYTES if _DEFINITION.match(block) else _ANYWHERE_BYTES)
        if section and (enough or _bytes(joined) > MAX_BYTES):
            yield from _fitting(section)
            joined = block
        section = joined
    yield from _fitting(section)


def _blocks(text: str) -> Iterator[str]:
    for block in _BLANK_LINES.split(text.replace("\r\n", "\n").replace("\x00", "").strip("\n")):
        yield from [block] if _bytes(block) <= MAX_BYTES else _runs_of_lines(block)


def _runs_of_lines(block: str) -> Iterator[str]:
    run = ""
    for line in block.split("\n"):
        joined = f"{run}\n{line}" if run else line
        if run and _bytes(joined) > MAX_BYTES:
            yield run
            joined = line
        run = joined
    yield run


def _fitting(section: str) -> Iterator[str]:
    if MIN_BYTES <= _bytes(section) <= MAX_BYTES:
        yield section


def _bytes(text: str) -> int:
    return len(text.encode())


def write(path: Path, texts: Iterable[str]) -> str:
    """One JSON object a line, `id` and `text`. Returns the SHA-256 of the file."""
    lines = (msgspec.json.encode({"id": f"{i:05}", "text": text}) + b"\n" for i, text in enumerate(texts))
    content = b"".join(lines)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=SECTIONS)
    options = parser.parse_args()
    texts = sections(options.count)
    checksum = write(options.out, texts)
    print(f"{len(texts):,} sections, {sum(map(_bytes, texts)):,} bytes of text, SHA-256 {checksum}")


if __name__ == "__main__":
    main()

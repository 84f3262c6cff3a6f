"""PDF, Word, PowerPoint, Excel, EPUB and Jupyter notebooks, read by kreuzberg: the extra `documents`.

Documents of other people are not to be trusted: they are read in a process of their own, which is ended when it takes
too long or too much memory. It is started for the first document of a pass and serves all of them.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Lock, Timer
from time import monotonic
from typing import BinaryIO, TypeAlias, TypedDict

from aembed.errors import InputError
from aembed.sources import _bounds
from aembed.sources._files import File
from aembed.sources._outline import MAX_CHARACTERS, records
from aembed.sources._rows import Fields, NothingToRead, NumberedRecord

Version: TypeAlias = tuple[Path, int, int]
"""A file, when it was changed last, and its size."""

TYPES = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".epub": "application/epub+zip",
    ".ipynb": "application/x-ipynb+json",
}
# Chosen: four times MAX_BYTES, since most of a PDF or a presentation is pictures, and its text has that bound by
# itself. Larger, two copies of it would take much of a small machine's memory.
_MAX_BYTES = 128_000_000
# Computed: 16 to 64 MB, by how many bytes Python needs for a character. Chosen: larger, a job over a large folder would
# hold its texts to the end; smaller, more documents are converted twice.
_KEPT_CHARACTERS = 16_000_000
_PROGRAM = Path(__file__).with_name("_office_process.py")


def missing_endings() -> tuple[str, ...]:
    """The endings that cannot be read because the extra is not installed."""
    return () if importlib.util.find_spec("kreuzberg") else tuple(TYPES)


def read(file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    status = file.path.stat()
    version = (file.path, status.st_mtime_ns, status.st_size)
    text = KEPT.get(version)
    if text is None:
        content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise InputError(f"skipped: it holds more than {_MAX_BYTES // 1_000_000} MB; split it")
        text = OFFICE.markdown(content, TYPES[file.ending])
        KEPT.keep(version, text)
    if not text.strip():
        raise NothingToRead("it holds no text; if it is a scan, have its text recognised first")
    # Each command imports this module, and a command that reads no document has no use for these.
    from semantic_text_splitter import MarkdownSplitter

    from aembed.sources._markdown import blocks

    yield from records(file, blocks(text), MarkdownSplitter(MAX_CHARACTERS))


class OfficeAnswer(TypedDict):
    error: str
    bytes: int


class DocumentCache:
    """The Markdown of documents that were read, while there is room: a job reads again what its plan has read."""

    def __init__(self) -> None:
        self._texts: dict[Version, str] = {}
        self._room = _KEPT_CHARACTERS

    def get(self, version: Version) -> str | None:
        return self._texts.get(version)

    def keep(self, version: Version, text: str) -> None:
        if len(text) <= self._room and version not in self._texts:
            self._room -= len(text)
            self._texts[version] = text


class Office:
    """The process, while there is one. Threads take turns."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def markdown(self, content: bytes, type: str) -> str:
        """Raises InputError where the document cannot be read within the limits of time and memory."""
        with self._lock:
            begun = monotonic()
            answer, text = self._ask_process(content, type)
            if answer is None:
                self._end()
                _bounds.check_seconds(monotonic() - begun)
                raise InputError("skipped: reading it takes more memory than one document may; split it, or repair it")
        if answer["error"]:
            raise InputError(f"skipped: {answer['error']}; repair it")
        return text.decode()

    def close(self) -> None:
        """Ends the process, unless another pass is using it just now: that one ends it, then."""
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _ask_process(self, content: bytes, type: str) -> tuple[OfficeAnswer | None, bytes]:
        """None: the process ended instead."""
        process, is_new = self._running_process()
        assert process.stdin
        assert process.stdout
        limits = {"seconds": _bounds.MAX_SECONDS, "most": _bounds.MAX_BYTES}
        # Only the end of the process ends a reader that hangs: a thread cannot be ended, and a pipe has no timeout.
        timer = Timer(_bounds.MAX_SECONDS, process.kill)
        timer.start()
        try:
            if is_new and not process.stdout.readline():
                raise InputError(f"cannot be read: {_PROGRAM.name} does not start; install 'aembed[documents]' again")
            process.stdin.write(json.dumps({"bytes": len(content), "type": type, **limits}).encode() + b"\n" + content)
            process.stdin.flush()
            answer: OfficeAnswer | None = json.loads(process.stdout.readline() or b"null")
            text = process.stdout.read(answer["bytes"]) if answer else b""
        except OSError:
            return None, b""
        finally:
            timer.cancel()
            timer.join()
        return (answer, text) if answer and len(text) == answer["bytes"] else (None, b"")

    def _running_process(self) -> tuple[subprocess.Popen[bytes], bool]:
        """The process, and whether it was started just now."""
        if self._process is not None and self._process.poll() is None:
            return self._process, False
        self._end()
        self._process = subprocess.Popen(
            # -P: beside the program lie modules that have the names of the standard library's.
            [sys.executable, "-P", "-W", "ignore", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the command, which ends this one itself
        )
        return self._process, True

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe:
                    pipe.close()
            except OSError:
                pass
        process.wait()


OFFICE = Office()
KEPT = DocumentCache()

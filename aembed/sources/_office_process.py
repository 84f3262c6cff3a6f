"""The process in which documents are read, started by path: it imports nothing of aembed, and leaves no file.

Each request on standard input is a line of JSON and the document's bytes, each answer the same with its Markdown.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import zipfile
from typing import Any, BinaryIO

from kreuzberg import ContentFilterConfig, ExtractionConfig, KreuzbergError, extract_bytes_sync

# Chosen: five times what a document may unpack to. Larger, a document made to harm could take a small machine's memory;
# smaller, large honest ones fail.
_MEMORY_BYTES = 1_500_000_000
"""Of what is read, beyond the libraries themselves."""
# Chosen: text in XML shrinks to a tenth or so, and a .docx of 30 MB passes. Larger, a small file that unpacks without
# end would be read until the memory is used up.
_UNPACKED_BYTES = 300_000_000
_PDF = "application/pdf"
_ZIP = b"PK\x03\x04"

_OPTIONS: dict[str, Any] = {
    "output_format": "markdown",
    "use_cache": False,
    "disable_ocr": True,
    "enable_quality_processing": False,
    "content_filter": ContentFilterConfig(include_headers=True, include_footers=True, strip_repeating_text=False),
}
CONFIG = ExtractionConfig(**_OPTIONS)
"""All of the text as it stands, nothing recognised, and nothing kept on disk."""


def main() -> None:
    # What a library prints must not stand among the answers: they get a descriptor of their own, and stdout leads
    # nowhere.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.dont_write_bytecode = True
    # Before the limits: it writes a file as it is loaded, which they forbid (RLIMIT_FSIZE).
    can_read_pdf = _load_library()
    _limit_resources()
    _answer(answers, "", b"")  # ready
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        _watch(request["seconds"])
        content = sys.stdin.buffer.read(request["bytes"])
        if request["type"] == _PDF and not can_read_pdf:
            _answer(answers, "no program can be loaded from the temporary folder; set TMPDIR to another one", b"")
        else:
            _answer(answers, *_read(content, request["type"], request["most"]))


def _load_library() -> bool:
    """Kreuzberg writes its PDF library to the temporary folder at the first PDF. Once loaded it needs no file."""
    folder = tempfile.mkdtemp(prefix="aembed-")
    try:
        os.environ["TMPDIR"] = os.environ["TEMP"] = os.environ["TMP"] = folder
        extract_bytes_sync(b"%PDF-1.4", _PDF, CONFIG)
        return True
    except KreuzbergError as error:
        return "bind to Pdfium" not in str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(content: bytes, type: str, most: int) -> tuple[str, bytes]:
    """What is wrong, and the Markdown."""
    try:
        if content.startswith(_ZIP):
            # As its directory says; what is longer than said there is not read on.
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                unpacked_bytes = sum(entry.file_size for entry in packed.infolist())
            if unpacked_bytes > _UNPACKED_BYTES:
                return f"it holds more than {_UNPACKED_BYTES // 1_000_000} MB, unpacked", b""
        markdown = extract_bytes_sync(content, type, CONFIG).content.encode()
    except MemoryError:
        return "there is not enough memory to read it", b""
    except Exception as error:  # its message may quote the document
        words = str(error).lower()
        if "password" in words or "encrypt" in words:
            return "it is protected by a password", b""
        return "it is broken, or not what its ending says", b""
    return ("its text is too large", b"") if len(markdown) > most else ("", markdown)


def _answer(answers: BinaryIO, error: str, markdown: bytes) -> None:
    answers.write(json.dumps({"error": error, "bytes": len(markdown)}).encode() + b"\n" + markdown)
    answers.flush()


def _limit_resources() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as sizes:  # Linux only
            mapped = int(sizes.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY_BYTES,) * 2)


def _watch(seconds: float) -> None:
    """Ends this process even when nobody is left to do so."""
    alarm: Any = getattr(signal, "alarm", None)
    if alarm:
        # Chosen: later than the timer of the process that asked, which has more to say about it.
        alarm(int(seconds) + 5)


if __name__ == "__main__":
    main()

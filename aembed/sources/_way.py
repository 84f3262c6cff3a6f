"""How files are read: what has to be the same for a file that has not changed to give the same records again."""

from __future__ import annotations

import os
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec

from aembed.sources._outline import MAX_CHARACTERS
from aembed.sources._rows import Fields

READING = 1
"""To be raised with each change of what is made of a file: ids, texts, metadata. A test compares them with a digest."""
_LIBRARIES = ("semantic_text_splitter", "markdown_it", "turbohtml", "kreuzberg")


def way_of(fields: Fields) -> bytes:
    """16 bytes that change with our readers, the libraries that cut and convert, and the names of the fields."""
    versions = [_version_of(library) for library in _LIBRARIES]
    given = [READING, MAX_CHARACTERS, fields.id, fields.text, fields.metadata, fields.delimiter, versions]
    return blake2b(repr(given).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@cache
def _version_of(library: str) -> tuple[int, int] | None:
    """When it was installed: to read its version takes ten times as long."""
    found = find_spec(library)
    try:
        status = os.stat(found.origin) if found and found.origin else None
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if status else None

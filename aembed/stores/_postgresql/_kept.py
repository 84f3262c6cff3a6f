"""What PostgreSQL's text, jsonb and B-tree can keep of a record."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from aembed.errors import InputError
from aembed.stores._postgresql._database import Connection
from aembed.stores._rules import encode
from aembed.types import Record

MOST_KEY_BYTES = 2_692
"""What a B-tree entry of an 8 kB page has left of its 2,704 bytes for a text (BTMaxItemSize, less its headers)."""
# An even number of backslashes before it are backslashes of the text; with an odd one \u0000 is NUL, which jsonb
# refuses.
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
ENCODING = "SELECT pg_catalog.current_setting('server_encoding')"
HOLDS_ALL = ("UTF8", "SQL_ASCII")
"""UTF-8 itself; and an encoding that takes every byte for what it is."""
# PostgreSQL's appendix "Character Set Support". The others have in Python the names that they have there.
CODECS = {"LATIN5": "iso8859-9", "LATIN6": "iso8859-10", "LATIN7": "iso8859-13", "LATIN8": "iso8859-14"}
CODECS |= {"LATIN9": "iso8859-15", "LATIN10": "iso8859-16", "EUC_CN": "gb2312", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}


async def read_codec(connection: Connection) -> str | None:
    """Python's name of the database's encoding; None where it holds every text, or is unknown here."""
    name: str = await connection.fetchval(ENCODING)
    codec = CODECS.get(name, name.replace("WIN", "cp"))
    try:
        return None if name in HOLDS_ALL else codecs.lookup(codec).name
    except LookupError:
        return None


def refusal(record: Record, codec: str | None) -> InputError | None:
    """Why it cannot be kept. `codec` is that of the database."""
    metadata = encode(record.metadata) or ""
    fields = {"id": record.id, "text": record.text or "", "source": record.source or ""}
    for name, value in fields.items():
        if "\0" in value:
            return InputError(f"{record.id!r}: its {name} holds NUL, which PostgreSQL cannot keep; remove it")
    for name in ("id", "source"):
        size = len(fields[name].encode())
        if size > MOST_KEY_BYTES:
            start = record.id[:40]
            return InputError(f"{start!r}...: its {name} has {size:,} bytes; PostgreSQL indexes {MOST_KEY_BYTES:,}")
    if _JSON_NUL.search(metadata):
        return InputError(f"{record.id!r}: its metadata holds NUL, which PostgreSQL cannot keep; remove it")
    if codec is None:
        return None
    for name, value in (fields | {"metadata": metadata}).items():
        try:
            value.encode(codec)
        except UnicodeEncodeError:
            return InputError(
                f"{record.id!r}: its {name} has a character that the encoding of the database ({codec}) has not; keep "
                "it in a database that is UTF8"
            )
    return None


def without_nul(ids: Sequence[str]) -> list[str]:
    """No row of PostgreSQL has an id that holds NUL."""
    return [id for id in ids if "\0" not in id]

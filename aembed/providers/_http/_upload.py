"""A body that goes out a piece at a time: a file within a form of several parts, which never stands in memory whole."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from secrets import token_hex
from typing import BinaryIO

from aembed.providers._threads import run_in_thread

# Chosen: a piece goes into the buffer of the socket in some ms. Smaller, 200 MB are read in very many steps; larger, so
# much more memory is taken.
PIECE_BYTES = 1024 * 1024


class Upload:
    """`file`, which can be sought in, between bytes before and after it. Each iteration begins anew."""

    def __init__(self, file: BinaryIO, before: bytes = b"", after: bytes = b"") -> None:
        self._file = file
        self._before, self._after = before, after
        self.file_bytes = file.seek(0, os.SEEK_END)
        self.size_bytes = len(before) + self.file_bytes + len(after)

    def __repr__(self) -> str:
        return f"<Upload {self.size_bytes:,} bytes>"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._before:
            yield self._before
        await run_in_thread(self._file.seek, 0)
        while piece := await run_in_thread(self._file.read, PIECE_BYTES):
            yield piece
        if self._after:
            yield self._after


def multipart(fields: Mapping[str, str], file: BinaryIO, filename: str) -> tuple[str, Upload]:
    """A form with these fields and that file of JSON lines, and its content type (RFC 7578).

    Fields stand first, as servers that read a form as it comes have to know them before the file.
    """
    boundary = token_hex(16)
    parts = [_disposition(boundary, name) + f"\r\n\r\n{value}\r\n" for name, value in fields.items()]
    opening = _disposition(boundary, "file") + f'; filename="{filename}"\r\ncontent-type: application/jsonl\r\n\r\n'
    before, after = "".join([*parts, opening]), f"\r\n--{boundary}--\r\n"
    return f"multipart/form-data; boundary={boundary}", Upload(file, before.encode("ascii"), after.encode("ascii"))


def _disposition(boundary: str, name: str) -> str:
    return f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"'

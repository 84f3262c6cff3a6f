"""Vectors that batches have brought, on disk until the job has written them as rows.

They are at the provider, too, until what they are of was settled: whoever is killed reads them once more.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any

import anyio
import numpy as np

from aembed.types import Matrix

# Chosen: a small batch never comes to the disk. Larger, memory grows for no speed: the system keeps the file there.
IN_MEMORY_BYTES = 8_000_000
# Chosen: 650,000 vectors of 1,536, and never more than half of what is free. What is beyond is kept in the store.
MOST_BYTES = 4_000_000_000
# Chosen: so long one that is killed may have to read again. A connection that takes longer for its batches is not held
# up by a store that keeps what comes.
MOST_SECONDS = 60.0
"""What comes later is kept in the store."""


class Brought:
    """Rows of float32 in a temporary file, by the fingerprints of their texts."""

    def __init__(self, run_in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._run_in_thread = run_in_thread
        self._file: SpooledTemporaryFile[bytes] | None = None
        self._lock = anyio.Lock()
        self._rows: dict[bytes, int] = {}
        self._size = self._width = 0
        try:
            self._most_bytes = min(MOST_BYTES, shutil.disk_usage(gettempdir()).free // 2)
        except OSError:
            self._most_bytes = IN_MEMORY_BYTES
        self._ends_at: float | None = None

    def __contains__(self, fingerprint: bytes) -> bool:
        return fingerprint in self._rows

    async def add(self, fingerprints: Sequence[bytes], matrices: Sequence[Matrix]) -> bool:
        """Whether the rows of the matrices were taken, one for each fingerprint; else there is no room for them."""
        now, rows = asyncio.get_running_loop().time(), sum(map(len, matrices))
        if self._ends_at is None:
            self._ends_at = now + MOST_SECONDS
        widths = {matrix.shape[1] for matrix in matrices} | {self._width or matrices[0].shape[1]}
        if now > self._ends_at or len(widths) > 1 or (self._size + rows) * max(widths) * 4 > self._most_bytes:
            return False
        async with self._lock:
            try:
                await self._run_in_thread(self._write, matrices)
            except OSError:
                self._most_bytes = 0  # The disk is full.
                return False
            self._rows.update(zip(fingerprints, range(self._size, self._size + rows), strict=True))
            self._size, self._width = self._size + rows, max(widths)
        return True

    async def find(self, fingerprints: Iterable[bytes]) -> tuple[list[bytes], Matrix]:
        """Those of the fingerprints that are here, each once, and a row for each."""
        found = sorted({each for each in fingerprints if each in self._rows}, key=self._rows.__getitem__)
        rows = [self._rows[each] for each in found]
        if not rows:
            return [], np.empty((0, self._width), np.float32)
        async with self._lock:
            return found, await self._run_in_thread(self._read, rows)

    async def aclose(self) -> None:
        self._rows.clear()
        if self._file:
            # Law 11: to give a file of 600 MB back takes the system tens of ms.
            await self._run_in_thread(self._file.close)

    def _write(self, matrices: Sequence[Matrix]) -> None:
        if self._file is None:
            self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, prefix="aembed-")  # noqa: SIM115
        self._file.seek(self._size * matrices[0].shape[1] * 4)
        for matrix in matrices:
            self._file.write(np.ascontiguousarray(matrix, np.float32).data)

    def _read(self, rows: Sequence[int]) -> Matrix:
        """Rows that stand one after another are read at once."""
        assert self._file is not None
        matrix = np.empty((len(rows), self._width), np.float32)
        start = 0
        for end in range(1, len(rows) + 1):
            if end == len(rows) or rows[end] != rows[end - 1] + 1:
                self._file.seek(rows[start] * self._width * 4)
                self._file.readinto(matrix[start:end].data)
                start = end
        return matrix

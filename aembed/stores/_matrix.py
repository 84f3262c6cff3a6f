"""One array of many vectors that come a page at a time: in memory, or in a file that is mapped."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import uuid4

import anyio.to_thread
import numpy as np

from aembed.errors import ConfigError, StoreError
from aembed.types import Matrix

# Chosen: 174,762 vectors of 1,536 floats. Larger, a machine of a few GB may end the process; smaller, common stores
# would ask for a file.
MOST_BYTES = 1024**3
"""Of an array in memory."""


class UnwritableError(StoreError):
    """A file that was begun cannot be written to its end."""

    def __init__(self, path: Path, reason: OSError) -> None:
        super().__init__(f"{path} cannot be written: {reason.strerror}")
        self.reason = reason


class MatrixInMemory:
    """It grows in place: the system moves the pages of a large array without copying them."""

    def __init__(self) -> None:
        self._matrix = np.empty((0, 0), np.float32)

    async def append(self, page: Matrix) -> None:
        """Raises ConfigError where it would be larger than 1 GB."""
        if not len(page):
            return
        if self._matrix.nbytes + page.nbytes > MOST_BYTES:
            raise ConfigError(
                "the vectors take more than 1 GB: give the path of a file that they are written to and mapped from "
                "(path=), or a filter (where=)"
            )
        rows = len(self._matrix)
        if rows:
            self._matrix.resize((rows + len(page), page.shape[1]), refcheck=False)
        else:
            self._matrix = np.empty(page.shape, np.float32)
        self._matrix[rows:] = page

    async def finish(self, dimensions: int) -> Matrix:
        return self._matrix if len(self._matrix) else np.empty((0, dimensions), np.float32)


class MatrixFile:
    """A file in numpy's format, written beside its name, and put there once it is whole."""

    def __init__(self, path: Path) -> None:
        if path.suffix != ".npy":
            raise ConfigError(f"path={str(path)!r} must end in .npy, which is the format of the file")
        self._path = path
        self._beside = path.with_name(f".{uuid4().hex}.npy")
        self._rows, self._width = 0, 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if os.path.lexists(self._path):
            raise ConfigError(f"{self._path} is there already; remove it, or name another file")
        try:
            self._file = self._beside.open("xb")
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}; name another file") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._beside.unlink()

    async def append(self, page: Matrix) -> None:
        """Raises StoreError where the file cannot be written."""
        if len(page):
            await anyio.to_thread.run_sync(self._write, page)

    async def finish(self, dimensions: int) -> Matrix:
        self._width = self._width or dimensions
        return await anyio.to_thread.run_sync(self._map)

    def _write(self, page: Matrix) -> None:
        assert self._file
        try:
            if not self._rows:
                self._width = page.shape[1]
                self._write_header()
            self._file.write(np.ascontiguousarray(page, "<f4").data)
        except OSError as error:
            raise UnwritableError(self._path, error) from None
        self._rows += len(page)

    def _write_header(self) -> None:
        """As long whatever the number of rows is: numpy leaves room for it to grow."""
        assert self._file
        shape = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._width)}
        np.lib.format.write_array_header_1_0(self._file, shape)

    def _map(self) -> Matrix:
        assert self._file
        try:
            self._file.seek(0)
            self._write_header()
            self._file.close()
            os.replace(self._beside, self._path)
            # Nothing cannot be mapped.
            mapped: Matrix = np.load(self._path, mmap_mode="r" if self._rows else None)
        except OSError as error:
            raise UnwritableError(self._path, error) from None
        return mapped

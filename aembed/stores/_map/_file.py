"""A map as a file: written once to a name of its own, and never changed after.

    one page    a line of JSON, and what it and the columns add up to
    codes       int8, a row after the other
    columns     one after the other: numbers of rows int64, scales, errors and lengths float32, checks int32;
                then the frame's mean and widths, float64

Everything is little-endian. What was lost, cut or turned over on the disk is found: the page and the columns have a
CRC-32, and each row of codes has its product with weights that are none of them even, which one flipped bit changes.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, astuple, dataclass
from functools import partial
from hashlib import shake_256
from io import BufferedWriter
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aembed.stores._map._codes import CodedRows, Codes, Frame
from aembed.stores._map._products import dots
from aembed.types import Vector

FORMAT = 1
PAGE_BYTES = 4096
COPIED_BYTES = 1024 * 1024
"""Read at once of what waits beside the map."""
COLUMNS = ("<i8", "<f4", "<f4", "<f4", "<i4")
"""Of the numbers of rows, their scales, errors, lengths and checks."""
# Computed: the product of 73,728 codes of at most 127, an eighth more, stays below 2^31.
MOST_DIMENSIONS = 65_536


class MapError(Exception):
    """It is not the map that was asked for, or not as it was written."""


@dataclass(frozen=True, slots=True)
class MapId:
    """Which rows a map is of. Each of these is compared before the map is used."""

    token: int
    """By chance; the database has it, too."""
    schema: int
    """SQLite's count of changes to the schema: a VACUUM, which may number the rows anew, is one."""
    dimensions: int


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """What is mapped: codes of shape (n, code_count), the other arrays of (n,). `rows` grow."""

    id: MapId
    last: int
    """The largest number of a row that it knows of."""
    frame: Frame
    codes: Codes
    rows: NDArray[np.int64]
    scales: Vector
    errors: Vector
    lengths: Vector
    checks: NDArray[np.int32]
    weights: Codes
    _mapped: mmap.mmap

    @classmethod
    def open(cls, path: Path, asked: MapId) -> RowMap:
        """Raises MapError for another map and for one that is damaged, OSError where there is none."""
        if sys.byteorder != "little":
            raise MapError("maps are read on little-endian machines only")
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes < PAGE_BYTES:
                raise MapError("it is cut")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        head = _read_head(mapped[:PAGE_BYTES])
        if (head.get("token"), head.get("schema"), head.get("dimensions")) != astuple(asked):
            raise MapError("it is of another database, or of another state")
        count, codes_each = head["rows"], head["codes"]
        start = PAGE_BYTES + count * codes_each
        tail_bytes = count * sum(map(_width, COLUMNS)) + 2 * 8 * asked.dimensions
        if size_bytes != start + tail_bytes or zlib.crc32(memoryview(mapped)[start:]) != head["tail"]:
            raise MapError("it is cut, or damaged")
        columns: list[NDArray[Any]] = []
        for kind in COLUMNS:
            columns.append(np.frombuffer(mapped, kind, count, start))
            start += count * _width(kind)
        rows, scales, errors, lengths, checks = columns
        frame = Frame(*np.frombuffer(mapped, "<f8", 2 * asked.dimensions, start).reshape(2, -1))
        codes = np.frombuffer(mapped, np.int8, count * codes_each, PAGE_BYTES).reshape(count, codes_each)
        return cls(
            asked,
            head["last"],
            frame,
            codes,
            rows,
            scales,
            errors,
            lengths,
            checks,
            _weights(asked, codes_each),
            mapped,
        )

    def positions_of(self, numbers: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where rows with these numbers are, those of them that are here; in order."""
        places = np.searchsorted(self.rows, np.sort(numbers))
        places = np.unique(places[places < len(self.rows)])
        return places[np.isin(self.rows[places], numbers)]

    def check_size(self) -> None:
        """Raises MapError where somebody cut the file; to read it would end the process."""
        if self._mapped.size() != len(self._mapped):
            raise MapError("it was cut while it was in use")


class MapWriter:
    """Writes a map to `path`, readable by its owner only; its page comes last. `close` may be called twice.

    What is kept of each row beside its codes waits in files without a name, so that memory does not grow with the rows.
    """

    def __init__(self, path: Path, id: MapId, last: int, frame: Frame) -> None:
        self.count = 0
        self._id, self._last, self._frame = id, last, frame
        self._weights = _weights(id, frame.code_count)
        with ExitStack() as opened:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            self._file: BufferedWriter = opened.enter_context(os.fdopen(descriptor, "wb"))
            self._columns = [opened.enter_context(TemporaryFile(dir=path.parent)) for _ in COLUMNS]
            self._opened = opened.pop_all()
        self._file.write(bytes(PAGE_BYTES))

    def add(self, rows: NDArray[np.int64], coded: CodedRows) -> None:
        """Rows with larger numbers than those before."""
        checks = dots(coded.codes, self._weights)[:, 0]
        self._file.write(coded.codes.data)
        columns = (rows, coded.scales, coded.errors, coded.lengths, checks)
        for file, kind, values in zip(self._columns, COLUMNS, columns, strict=True):
            file.write(values.astype(kind).tobytes())
        self.count += len(rows)

    def finish(self) -> None:
        """On disk when it returns."""
        crc = 0
        for data in self._tail():
            crc = zlib.crc32(data, crc)
            self._file.write(data)
        self._file.seek(0)
        values = {"format": FORMAT, **asdict(self._id), "last": self._last, "rows": self.count}
        line = json.dumps(values | {"codes": self._frame.code_count, "tail": crc}).encode()
        head = f"aembed map {zlib.crc32(line):08x} ".encode() + line + b"\n"
        self._file.write(head + bytes(PAGE_BYTES - len(head)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()

    def _tail(self) -> Iterator[bytes]:
        for file in self._columns:
            file.seek(0)
            yield from iter(partial(file.read, COPIED_BYTES), b"")
        yield np.concatenate([self._frame.mean, self._frame.widths]).astype("<f8").tobytes()

    def close(self) -> None:
        with suppress(OSError):
            self._opened.close()


def _read_head(page: bytes) -> dict[str, Any]:
    line = page[20:].partition(b"\n")[0]
    if page[:20] != f"aembed map {zlib.crc32(line):08x} ".encode():
        raise MapError("its first page is damaged")
    head: dict[str, Any] = json.loads(line)
    if head.get("format") != FORMAT or not head.keys() >= {"rows", "codes", "last", "tail"}:
        raise MapError("it was made by another build")
    return head


def _width(kind: str) -> int:
    return np.dtype(kind).itemsize


def _weights(id: MapId, count: int) -> Codes:
    """Odd numbers from -127 to 127, of shape (1, count)."""
    drawn = np.frombuffer(shake_256(str(id.token).encode()).digest(count), np.int8)
    weights: Codes = (drawn | 1).reshape(1, -1)
    return weights

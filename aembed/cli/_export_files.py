"""What an export is written as: Parquet, numpy's .npz, or JSON Lines; each as its rows come, beside its name."""

from __future__ import annotations

import asyncio
import os
import stat
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import msgspec
import numpy as np

from aembed.cli._streams import printable_line
from aembed.errors import ConfigError
from aembed.stores._arrow import import_pyarrow
from aembed.stores._matrix import MatrixFile, UnwritableError
from aembed.types import Embedded, Vector

# Chosen: 21,845 vectors of 384 floats, and their texts. Larger, memory grows; smaller, whoever reads the file finds
# more groups of rows than there is use for.
GROUP_BYTES = 32 * 1024 * 1024
"""Of a row group of Parquet."""
# Chosen: a write of 1 MB takes a millisecond. Smaller, each is a hop into a thread and back.
PIECE_BYTES = 1024 * 1024
ROWS_AT_ONCE = 1_024
MOST_ID_BYTES = 1024**3
"""Of the array of ids in an .npz, in which each id takes as much as the longest one."""
VALUES = "vector.list.element"
"""The numbers of the vectors, as Parquet names that column: neither zstd nor a dictionary makes them smaller."""


@dataclass(slots=True)
class Exported:
    """What was written by now."""

    rows: int = 0
    dimensions: int = 0


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file beside that of the path, which is put in its place at the end; nothing is left of it where that fails.

    Raises ConfigError where none can be made.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    # In the same folder, since os.replace is one step only within a file system.
    beside = path.with_name(f".{uuid4().hex}.aembed-export")
    try:
        beside.touch(exist_ok=False)
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"{printable_line(path)} cannot be written: {reason}; name another file") from None
    try:
        with suppress(OSError):
            beside.chmod(stat.S_IMODE(path.stat().st_mode))
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink()


class _Behind:
    """One call in a thread while its caller goes on; the next one waits for it."""

    def __init__(self) -> None:
        self._running: asyncio.Future[object] | None = None

    async def run(self, call: Callable[[], object]) -> None:
        await self.finish()
        self._running = asyncio.ensure_future(anyio.to_thread.run_sync(call))

    async def finish(self) -> None:
        running, self._running = self._running, None
        if running:
            await running

    async def leave(self) -> None:
        """However it ends: nothing may be written to a file that is removed."""
        running, self._running = self._running, None
        if running:
            with anyio.CancelScope(shield=True):
                await asyncio.gather(running, return_exceptions=True)


async def write_parquet(path: Path, batches: AsyncIterator[Any], exported: Exported) -> None:
    """A group of rows is written while the next one is read."""
    pa, behind, group, group_bytes = import_pyarrow("a .parquet file"), _Behind(), list[Any](), 0
    writer: Any = None

    def write(batches: list[Any]) -> Callable[[], None]:
        table = pa.Table.from_batches(batches)
        return lambda: writer.write_table(table, row_group_size=table.num_rows)

    try:
        async for batch in batches:
            writer = writer or _parquet_writer(path, batch.schema)
            exported.dimensions = batch.schema.field("vector").type.list_size
            exported.rows += batch.num_rows
            group.append(batch)
            group_bytes += batch.nbytes
            if group_bytes >= GROUP_BYTES:
                await behind.run(write(group))
                group, group_bytes = [], 0
        if group:
            await behind.run(write(group))
        await behind.finish()
    finally:
        await behind.leave()
        if writer is not None:
            await anyio.to_thread.run_sync(writer.close)


def _parquet_writer(path: Path, schema: Any) -> Any:
    compression = {**{name: "zstd" for name in schema.names if name != "vector"}, VALUES: "none"}
    return import_module("pyarrow.parquet").ParquetWriter(
        str(path), schema, compression=compression, use_dictionary=["source"], write_statistics=["id"]
    )


async def write_jsonl(path: Path, rows: AsyncIterator[Embedded], exported: Exported) -> None:
    """A row is an object on a line: id, text, metadata, source and vector, a list of numbers."""
    encoder, piece, behind = msgspec.json.Encoder(), bytearray(), _Behind()
    with path.open("wb") as file:
        try:
            async for row in rows:
                exported.rows, exported.dimensions = exported.rows + 1, len(row.vector)
                named = {"id": row.id, "text": row.text, "metadata": row.metadata, "source": row.source}
                encoder.encode_into({**named, "vector": row.vector.tolist()}, piece, -1)
                piece += b"\n"
                if len(piece) >= PIECE_BYTES:
                    await behind.run(partial(file.write, bytes(piece)))
                    piece.clear()
            await behind.run(partial(file.write, bytes(piece)))
            await behind.finish()
        finally:
            await behind.leave()


async def write_npz(path: Path, rows: AsyncIterator[Embedded], exported: Exported) -> None:
    """`ids`, an array of texts, and `vectors`, float32 of shape (rows, dimensions)."""
    ids: list[str] = []
    vectors = path.with_name(f".{uuid4().hex}.npy")
    page: list[Vector] = []
    try:
        with MatrixFile(vectors) as matrix:
            async for row in rows:
                page.append(row.vector)
                ids.append(row.id)
                exported.rows, exported.dimensions = len(ids), len(row.vector)
                if len(page) == ROWS_AT_ONCE:
                    await matrix.append(np.stack(page))
                    page = []
            if page:
                await matrix.append(np.stack(page))
            await matrix.finish(0)
        await anyio.to_thread.run_sync(_pack, path, ids, vectors)
    except UnwritableError as error:
        raise error.reason from None
    finally:
        with suppress(OSError):
            vectors.unlink()


def _pack(path: Path, ids: list[str], vectors: Path) -> None:
    """Raises ConfigError where the ids take too much."""
    longest = max(map(len, ids), default=1)
    if 4 * longest * len(ids) > MOST_ID_BYTES:
        raise ConfigError(f"an id has {longest:,} characters, too many for an .npz; export to .parquet")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("ids.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(ids, np.str_), allow_pickle=False)
        archive.write(vectors, "vectors.npy")

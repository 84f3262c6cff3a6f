"""Vectors of batches go straight into the rows of the run that collects them; what has no row there is kept."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from aembed import Embedder, Record, Report, SourceError, SQLiteStore, StoreError
from aembed.batch_protocols import BatchLine, BatchState, SettledLine
from aembed.pipeline import paid_rows
from aembed.pipeline.batch_jobs import brought, collected, settling
from aembed.stores import open_column
from tests.batches.provider import BatchFake, Killed
from tests.batches.test_jobs import fake, out, records, rows_are_right, run, store  # noqa: F401
from tests.batches.test_kills import Killer

pytestmark = pytest.mark.anyio


class Kept(SQLiteStore):
    """Tells which texts it was given the vectors of, to keep."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fingerprints: list[bytes] = []
        self.lines: list[int] = []

    async def settle_lines(self, key: str, lines: Sequence[SettledLine]) -> None:
        self.lines += [line.line for line in lines]
        self.fingerprints += [each for line in lines if line.matrix is not None for each in line.fingerprints]
        await super().settle_lines(key, lines)


async def test_what_has_a_row_is_kept_nowhere_else(fake: BatchFake, store: Any) -> None:  # noqa: F811
    given = records(18)
    await run(fake, store, given)
    fake.run_batches()
    settled = store.settle_lines
    store.settle_lines = lambda key, lines: (seen.extend(lines), settled(key, lines))[1]
    seen: list[SettledLine] = []
    report = await run(fake, store, given[:14])
    assert (report.stored, report.submitted) == (14, 0)
    assert sorted({line.line for line in seen}) == [0, 1, 2, 3, 4]
    assert sum(len(line.matrix) for line in seen if line.matrix is not None) == 4
    assert sum(len(line.fingerprints) for line in seen) == 4
    assert await out(store) == []
    assert (await run(fake, store, given)).stored == 4
    await rows_are_right(store, given)
    assert (set(fake.bought.values()), fake.ledger.requests) == ({1}, 0)


async def test_lines_are_settled_as_their_rows_are_written(
    fake: BatchFake,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that is killed then keeps no vector twice: its rows are there, and its lines are settled."""
    monkeypatch.setattr(collected, "TEXTS_AT_ONCE", 4)
    given, place = records(20), Kept(tmp_path / "rows.db")
    await run(fake, place, given)
    fake.run_batches()
    killer = Killer(fake, float("inf"))
    killer.watch(place)
    fake.after = fake.before = lambda call: None
    await run(fake, place, given)
    assert killer.names.index("after settle_lines") > killer.names.index("after write")
    assert (sorted(place.lines), place.fingerprints) == ([0, 1, 2, 3, 4], [])
    await place.aclose()


@pytest.mark.parametrize("most", ["bytes", "seconds", "disk"])
async def test_what_there_is_no_room_for_is_kept_in_the_store(
    fake: BatchFake,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: str,
) -> None:
    def full(self: object, matrices: object) -> None:
        raise OSError(28, "No space left on device")

    match most:
        case "bytes":
            monkeypatch.setattr(brought, "MOST_BYTES", 10)
        case "seconds":
            monkeypatch.setattr(brought, "MOST_SECONDS", -1.0)
        case _:
            monkeypatch.setattr(brought.Brought, "_write", full)
    given, place = records(20), Kept(tmp_path / "rows.db")
    await run(fake, place, given)
    fake.run_batches()
    assert (await run(fake, place, given)).stored == 20
    assert (len(place.fingerprints), fake.files) == (20, {})
    await rows_are_right(place, given)
    assert not await place.batch_texts(place.fingerprints)
    await place.aclose()


async def test_of_a_run_that_is_stopped_everything_that_was_read_is_kept(
    fake: BatchFake,  # noqa: F811
    tmp_path: Path,
) -> None:
    class Refusing(Kept):
        async def write(self, rows: Any, refusals: Any = ()) -> None:
            raise StoreError("the disk is full")

    given = records(20)
    place = Refusing(tmp_path / "rows.db")
    await run(fake, place, given)
    fake.run_batches()
    with pytest.raises(StoreError, match="full"):
        await run(fake, place, given)
    await place.aclose()
    place = Kept(tmp_path / "rows.db")
    assert (await run(fake, place, given)).stored == 20
    await rows_are_right(place, given)
    assert (set(fake.bought.values()), fake.files) == ({1}, {})
    await place.aclose()


class Slow(BatchFake):
    """Gives the line of the first text last, and only once other rows are written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = anyio.Event()

    async def batch_results(self, state: BatchState, inputs: Mapping[str, int]) -> AsyncGenerator[BatchLine]:
        lines = [line async for line in super().batch_results(state, inputs)]
        for number, line in enumerate(reversed(lines)):
            if number == len(lines) - 1:
                with anyio.fail_after(20.0):
                    await self.written.wait()
            yield line


async def test_rows_are_written_while_results_come_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "ROWS_AT_ONCE", 4)
    slow, given, place = Slow(), records(20), Kept(tmp_path / "rows.db")
    await run(slow, place, given)
    slow.run_batches()

    async def write(rows: Any, refusals: Any = ()) -> None:
        await SQLiteStore.write(place, rows, refusals)
        slow.written.set()

    place.write = write  # type: ignore[method-assign]
    assert (await run(slow, place, given)).stored == 20
    assert place.fingerprints == []
    await rows_are_right(place, given)
    await place.aclose()


async def test_q15_a_kill_between_rows_of_equal_texts_buys_none_of_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collected, "TEXTS_AT_ONCE", 1)
    monkeypatch.setattr(paid_rows, "ROWS_AT_ONCE", 1)
    provider, place = BatchFake(), f"sqlite:///{tmp_path / 'app.db'}"
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(f"text {n % 3}",) for n in range(9)])

    async def fill(most: float = float("inf")) -> Report | None:
        column: Any = open_column(place, "notes", text="body")
        usual, begun = column.write, count()

        async def write(*arguments: Any) -> int:
            if next(begun) >= most:
                await anyio.sleep(0.2)  # until what was written is settled
                raise Killed
            filled: int = await usual(*arguments)
            return filled

        column.write = write
        try:
            async with Embedder(provider) as embedder:
                embedder._engine.clock = lambda: provider.now
                return await embedder.backfill(column, batch=True)
        except (Killed, BaseExceptionGroup):
            return None
        finally:
            await column.aclose()

    await fill()
    provider.run_batches()
    assert await fill(8) is None
    report = await fill()
    assert report
    assert (report.submitted, report.pending, set(provider.bought.values())) == (0, 0, {1})
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT count(*) FROM notes WHERE embedding IS NULL").fetchone() == (0,)


async def test_what_was_read_before_the_records_broke_is_written(tmp_path: Path) -> None:
    provider, given, place = BatchFake(), records(20), Kept(tmp_path / "rows.db")
    await run(provider, place, given)
    provider.run_batches()

    def broken() -> Iterator[Record]:
        yield from given[:8]
        raise OSError("the file is gone")

    with pytest.raises(SourceError) as error:
        await run(provider, place, broken())  # type: ignore[arg-type]
    assert error.value.report
    assert (error.value.report.stored, len(place.fingerprints)) == (8, 12)
    assert ((await run(provider, place, given)).stored, set(provider.bought.values())) == (12, {1})
    await place.aclose()

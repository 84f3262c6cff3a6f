from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aembed.errors import StoreError
from aembed.stores._sqlite._database import PAGE_BYTES
from aembed.stores.sqlite import SQLiteStore
from aembed.types import Rows, Space
from tests.stores.samples import SPACE, Unprivileged, count, files, query, rows, vectors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    yield store
    await store.aclose()


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[Callable[[], None]]:
    """Holds the write lock until the function is called, or the block ends."""
    code = """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        sys.stdin.read()
        connection.execute("COMMIT")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process.stdin.close


# Another process


async def test_s16_a_write_waits_for_another_process(store: SQLiteStore, path: Path) -> None:
    with locked_by_another_process(path) as unlock:
        began = time.monotonic()
        write = asyncio.create_task(store.write(rows(["a"])))
        done, _ = await asyncio.wait([write], timeout=6)  # longer than one busy_timeout of 5 s
        assert not done
        unlock()
        await write
    assert time.monotonic() - began >= 6
    assert count(path) == 1


async def test_s16_a_lock_that_stays_is_a_store_error(store: SQLiteStore, path: Path) -> None:
    impatient = SQLiteStore(path, lock_timeout=0.2)
    with locked_by_another_process(path):
        with pytest.raises(StoreError, match=r"stayed locked by another process for 0\.2 s"):
            await impatient.write(rows(["a"]))
        assert (await impatient.info()).rows == 0
    await impatient.write(rows(["a"]))
    assert count(path) == 1
    await impatient.aclose()


async def test_two_stores_write_one_file_at_once(store: SQLiteStore, path: Path) -> None:
    other = SQLiteStore(path)
    batches = [[f"{i}-{j}" for j in range(50)] for i in range(20)]
    stores = [store, other] * 10
    await asyncio.gather(*(each.write(rows(ids)) for each, ids in zip(stores, batches, strict=True)))
    await other.aclose()
    assert count(path) == 1000


# Cancellation


def big(name: str) -> Rows:
    return rows([f"{name}-{i:04d}" for i in range(300)], vectors(300, 256))


async def seconds_of_a_write(store: SQLiteStore) -> float:
    began = time.perf_counter()
    await store.write(big("first"))
    return time.perf_counter() - began


async def test_s17_a_write_cancelled_at_any_moment_is_whole(path: Path) -> None:
    store = SQLiteStore(path)
    await store.prepare(Space("fake", "letters", 256))
    whole = await seconds_of_a_write(store)
    cancelled = 0
    for step in range(40):
        write = asyncio.create_task(store.write(big(f"{step:02d}")))
        done, _ = await asyncio.wait([write], timeout=whole * step / 40)
        write.cancel()
        outcome = (await asyncio.gather(write, return_exceptions=True))[0]
        cancelled += isinstance(outcome, asyncio.CancelledError)
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            seen = other.execute("SELECT count(*) FROM aembed_rows WHERE id LIKE ?", (f"{step:02d}-%",)).fetchone()[0]
            other.execute("ROLLBACK")
        assert seen in ((300,) if done else (0, 300))
    assert cancelled >= 10
    await store.aclose()
    assert count(path) == 41 * 300


async def test_s17_a_cancelled_write_that_fails_leaves_no_transaction(store: SQLiteStore, path: Path) -> None:
    good = rows(["a", "b"])
    broken = Rows(good.ids, ["text", "\ud800"], *(getattr(good, n) for n in Rows.__slots__[2:]))
    write = asyncio.create_task(store.write(broken))
    await asyncio.sleep(0)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    with pytest.raises(StoreError, match="lone surrogate"):
        await store.write(broken)
    await SQLiteStore(path, lock_timeout=1).write(rows(["c"]))
    assert query(path, "SELECT id FROM aembed_rows") == [("c",)]


def test_s17_a_loop_that_ends_leaves_the_write_to_the_thread(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SQLiteStore(path)

    async def begin() -> None:
        await store.prepare(SPACE)
        asyncio.create_task(store.write(rows(["a", "b"])))  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(begin())
    asyncio.run(store.aclose())
    assert count(path) == 2
    assert caplog.records == []


# Files that cannot be used


@contextmanager
def refused(path: Path, sentence: str) -> Iterator[None]:
    with pytest.raises(StoreError, match=sentence) as caught:
        yield
    assert str(path) in str(caught.value) or path.name in str(caught.value)
    assert "text 1 of" not in str(caught.value)
    assert not isinstance(caught.value.__cause__, sqlite3.Error)


@pytest.fixture
def prose(path: Path) -> Iterator[Path]:
    content = b"# Notes\n" * 4096
    path.write_bytes(content)
    yield path
    assert path.read_bytes() == content


async def test_s19_a_file_that_is_no_database(prose: Path) -> None:
    store = SQLiteStore(prose)
    with refused(prose, "is not a SQLite database"):
        await store.info()
    with refused(prose, "is not a SQLite database"):
        await store.prepare(SPACE)
    await store.aclose()


async def test_s19_a_folder(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path)
    with refused(tmp_path, "cannot be opened; check that it is a file"):
        await store.info()
    with refused(tmp_path, "cannot be opened; check that it is a file"):
        await store.prepare(SPACE)


async def test_s19_no_folder(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "none" / "notes.db")
    assert (await store.info()).rows == 0
    with refused(tmp_path / "none" / "notes.db", "the folder of .* does not exist; create .*none first"):
        await store.prepare(SPACE)


async def test_s19_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file" / "notes.db", "the folder of .* does not exist"):
        await SQLiteStore(tmp_path / "file" / "notes.db").prepare(SPACE)


async def test_s19_a_folder_that_may_not_be_written(public_folder: Path, unprivileged: Unprivileged) -> None:
    os.chmod(public_folder, 0o555)
    with unprivileged(), refused(public_folder / "notes.db", "cannot be opened: Permission denied"):
        await SQLiteStore(public_folder / "notes.db").prepare(SPACE)
    assert files(public_folder) == []


async def test_s19_a_file_that_may_not_be_written(public_folder: Path, unprivileged: Unprivileged) -> None:
    path = public_folder / "notes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE mine (id)")
    os.chmod(path, 0o444)
    store = SQLiteStore(path)
    with unprivileged(), refused(path, "cannot be written: it is read-only"):
        await store.prepare(SPACE)
    await store.aclose()


async def test_s19_a_file_that_may_not_be_read(public_folder: Path, unprivileged: Unprivileged) -> None:
    path = public_folder / "notes.db"
    owner = SQLiteStore(path)
    await owner.prepare(SPACE)
    await owner.aclose()
    os.chmod(path, 0)
    with unprivileged(), refused(path, "cannot be opened"):
        await SQLiteStore(path).info()


def damage(path: Path) -> None:
    """Flips bits in the first byte of every page but the first."""
    content = bytearray(path.read_bytes())
    for start in range(PAGE_BYTES, len(content), PAGE_BYTES):
        content[start] ^= 0xFF
    path.write_bytes(content)


async def test_s19_a_damaged_page(path: Path) -> None:
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    await store.write(rows([f"{i:04d}" for i in range(2000)]))
    await store.aclose()
    damage(path)
    store = SQLiteStore(path)
    with refused(path, "is damaged; restore a copy"):
        await store.info()
    with refused(path, "is damaged; restore a copy"):
        await store.write(rows(["a"]))
    await store.aclose()


async def test_s19_a_vector_that_was_cut(store: SQLiteStore, path: Path) -> None:
    await store.write(rows(["a", "b"]))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE aembed_rows SET embedding = x'00' WHERE id = 'b'")
    with refused(path, "holds a vector that is not 4 float32"):
        await store.search(vectors(1)[0], 1)


async def test_s19_text_that_is_not_utf8_is_not_quoted(store: SQLiteStore, path: Path) -> None:
    await store.write(rows(["a"]))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE aembed_rows SET text = CAST(x'7365637265743aff' AS TEXT)")
    with pytest.raises(StoreError) as caught:
        [row async for row in store.rows()]
    assert "secret" not in f"{caught.value}{caught.value.__cause__}"


async def test_s19_a_full_file(store: SQLiteStore, path: Path) -> None:
    await store.write(rows(["kept"]))
    await store._database.read(lambda connection: connection.execute("PRAGMA max_page_count = 12").fetchone(), None)
    with refused(path, "the disk is full; free some space"):
        await store.write(rows([f"{i:04d}" for i in range(5000)]))
    assert query(path, "SELECT id FROM aembed_rows") == [("kept",)]
    await store._database.read(lambda connection: connection.execute("PRAGMA max_page_count = 1000").fetchone(), None)
    await store.write(rows(["after"]))
    assert count(path) == 2


@pytest.mark.skipif(os.name != "posix", reason="RLIMIT_FSIZE is POSIX")
def test_s19_a_quota_that_is_used_up(path: Path) -> None:
    code = f"""
        import asyncio, resource
        from aembed.errors import StoreError
        from aembed.stores.sqlite import SQLiteStore
        from tests.stores.samples import SPACE, rows
        async def main():
            store = SQLiteStore({str(path)!r})
            await store.prepare(SPACE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
            for batch in range(100):
                try:
                    await store.write(rows([f"{{batch}}-{{i}}" for i in range(100)]))
                except StoreError as error:
                    print(batch, error)
                    break
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30)
    told = re.fullmatch(r"(\d+) .*notes.db cannot be read or written; check the disk.*\n", ended.stdout)
    assert told, ended
    assert count(path) == int(told[1]) * 100 > 0
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_s19_a_file_that_is_deleted_while_in_use(store: SQLiteStore, path: Path) -> None:
    await store.write(rows(["a"]))
    os.unlink(path)
    with refused(path, "was removed or replaced while it was in use"):
        await store.write(rows(["b"]))
    assert (await store.info()).rows == 0
    for name in files(path.parent):
        os.unlink(path.parent / name)
    await store.prepare(SPACE)
    await store.write(rows(["c"]))
    assert count(path) == 1


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_s19_a_log_that_is_deleted_while_in_use(store: SQLiteStore, path: Path, suffix: str) -> None:
    """What is written to it then nobody reads again."""
    await store.write(rows(["a"]))
    assert len(await store.search(vectors(1)[0], 1)) == 1
    os.unlink(f"{path}{suffix}")
    told = f"{path.name}{suffix} was removed or replaced while it was in use"
    with pytest.raises(StoreError, match=told):
        await store.write(rows(["b"]))
    with pytest.raises(StoreError, match=told):
        await store.search(vectors(1)[0], 1)

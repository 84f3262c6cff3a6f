from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aembed.protocols import Store
from aembed.stores import open_store, schemes
from tests.stage.postgres import Server
from tests.stores.samples import SPACE, URLS, NewPlace, Unprivileged

NOBODY = 65534


@pytest.fixture(scope="module")
def new_place(request: pytest.FixtureRequest) -> NewPlace:
    """Starts PostgreSQL only where a test is about it."""

    def new(scheme: str, folder: Path) -> str:
        match scheme:
            case "postgresql":
                return URLS[scheme](folder, request.getfixturevalue("database"))
            case "pooled":
                return URLS["postgresql"](folder, request.getfixturevalue("pooled"))
            case _:
                return URLS[scheme](folder, "")

    return new


@pytest.fixture
def table() -> str:
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that may be stopped: the tests of a module that stop it own it."""
    try:
        server = Server()
    except LookupError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(params=[*schemes(), "pooled"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path, new_place: NewPlace) -> AsyncIterator[Store]:
    store = open_store(new_place(request.param, tmp_path))
    yield store
    await store.aclose()


@pytest.fixture
async def store(empty: Store) -> Store:
    await empty.prepare(SPACE)
    return empty


@pytest.fixture
def unprivileged() -> Unprivileged:
    """Root may write everywhere: permissions are tried as another user."""
    if os.name != "posix":
        pytest.skip("permissions are POSIX")
    return as_nobody if os.geteuid() == 0 else as_we_are


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def as_we_are() -> Iterator[None]:
    yield


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can reach and not write to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)


@pytest.fixture
def small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every SQLite place gets a map, and a new one as soon as that is due; pages have 50 rows of 24 floats."""
    monkeypatch.setattr("aembed.stores._sqlite._making.MAPPED_FROM_BYTES", 1)
    monkeypatch.setattr("aembed.stores._sqlite._making._REST", 0)
    monkeypatch.setattr("aembed.stores._sqlite._making._REST_AFTER_FAILURE", 0)
    monkeypatch.setattr("aembed.stores._sqlite._making._PAGE_BYTES", 50 * 4 * 24)

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from tests.loops import sitecustomize
from tests.stage.postgres import VARIABLE, Pooler, Server, create_database, drop_database
from tests.stage.temporary import own_folder
from tests.stage.vocabulary import write_vocabularies

# A test is not timed: on a busy machine any step may take long.
settings.register_profile("untimed", deadline=None)
settings.register_profile(
    "mutants",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("untimed")

if os.environ.get("AEMBED_TEST_LOOP"):
    # The processes that tests start run on that loop, too.
    sitecustomize.install(os.environ["AEMBED_TEST_LOOP"])
    folders = (str(Path(sitecustomize.__file__).parent), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))


def pytest_configure(config: pytest.Config) -> None:
    """The folder is that of the run: its workers have it from the process that starts them."""
    if not hasattr(config, "workerinput"):
        config.add_cleanup(own_folder())


VIRTUAL = {"run_virtual", "virtual", "virtually"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on virtual time have a loop of their own: once is enough."""
    if os.environ.get("AEMBED_TEST_LOOP"):
        virtual = [
            item for item in items if isinstance(item, pytest.Function) and VIRTUAL & {*item.obj.__code__.co_names}
        ]
        config.hook.pytest_deselected(items=virtual)
        items[:] = [item for item in items if item not in set(virtual)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Real tiktoken, with no network; the processes that a test starts have it too."""
    folder = tmp_path_factory.mktemp("tiktoken")
    write_vocabularies(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TIKTOKEN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server with pgvector."""
    if named := os.environ.get(VARIABLE):
        yield named
        return
    try:
        server = Server()
    except LookupError as error:
        pytest.skip(str(error))
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[str]:
    """The URL of a new database, one for each test module."""
    name = f"aembed_test_{uuid.uuid4().hex}"
    yield create_database(postgres, name)
    drop_database(postgres, name)


@pytest.fixture(scope="session")
def pooler(postgres: str) -> Iterator[Pooler]:
    """PgBouncer in transaction mode."""
    try:
        pooler = Pooler(postgres)
    except LookupError as error:
        pytest.skip(str(error))
    yield pooler
    pooler.stop()


@pytest.fixture(scope="module")
def pooled(pooler: Pooler, database: str) -> str:
    """The URL of the module's database, by way of a pooler in transaction mode."""
    return pooler.before(database)

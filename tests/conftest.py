from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vocabulary import write_vocabularies


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

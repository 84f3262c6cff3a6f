"""The blocks of docs/scale.md that need an engine. `nox -s integrations` installs these and runs this."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import chdir
from pathlib import Path

import pytest

from tests.pages import Block, blocks
from tests.service.own_process import KEY, ROOT, Service, serving

pytest.importorskip("daft")
ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    async with serving("--key", KEY) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        monkeypatch.setenv("PYTHONPATH", path)
        yield running
        ray.shutdown()


@pytest.mark.parametrize("block", blocks("python", "engine"), ids=str)
async def test_a_block_for_an_engine_runs(block: Block, service: Service, tmp_path: Path) -> None:
    compiled = compile(block.code, str(block), "exec")
    with chdir(tmp_path):
        await asyncio.to_thread(exec, compiled, {"__name__": "__main__"})
    assert sum((await service.texts()).values()) == 1_000

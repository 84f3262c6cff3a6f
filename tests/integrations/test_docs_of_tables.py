"""The blocks of docs/etl.md that need DuckDB or FAISS. `nox -s integrations` installs these and runs this."""

from __future__ import annotations

import asyncio
from contextlib import chdir
from pathlib import Path

import pytest

from tests.pages import Block, blocks
from tests.service.server import Server

pytest.importorskip("duckdb")
pytest.importorskip("faiss")
pytestmark = pytest.mark.filterwarnings("ignore")
BLOCKS = blocks("python", "tables")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
async def test_a_block_with_tables_of_others_runs(
    block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled = compile(block.code, str(block), "exec")
    async with Server() as service:
        monkeypatch.setenv("OPENAI_BASE_URL", service.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
        with chdir(tmp_path):
            await asyncio.to_thread(exec, compiled, {"__name__": "__main__"})
        assert service.ledger.billed_tokens > 0


def test_there_are_such_blocks() -> None:
    assert len(BLOCKS) >= 3

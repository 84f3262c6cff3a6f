"""The blocks of docs/frameworks.md, observing.md and scale.md that need a framework or an engine, each in a process of
its own, since Ray does not work twice in one. `nox -s integrations` installs what they need."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.pages import Block, blocks
from tests.service.own_process import KEY, ROOT, serving

pytestmark = pytest.mark.timeout(300)
ENGINES = ("ray", "daft", "dask")
FRAMEWORKS = (
    "langchain_core",
    "llama_index",
    "openai",
    "haystack",
    "chromadb",
    "lancedb",
    "pydantic_ai",
    "duckdb",
    "faiss",
    "opentelemetry",
)


def packages_of(block: Block) -> set[str]:
    """Those that it imports, and those that the modules of aembed that it names import."""
    found = set[str]()
    for node in ast.walk(ast.parse(block.code)):
        for name in [node.module or ""] if isinstance(node, ast.ImportFrom) else _names(node):
            found |= {name.removeprefix("aembed.integrations.").partition(".")[0]}
    return {"langchain_core" if name == "langchain" else name for name in found}


def _names(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.parametrize("block", [*blocks("python", "framework"), *blocks("python", "engine")], ids=str)
async def test_a_block_for_a_framework_runs(block: Block, tmp_path: Path) -> None:
    needed = packages_of(block) & {*FRAMEWORKS, *ENGINES}
    assert needed
    for name in needed:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    async with serving("--key", KEY) as service:
        environment = os.environ | {"OPENAI_BASE_URL": service.url, "OPENAI_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
        with (tmp_path / "said").open("wb") as said:
            command = (sys.executable, "-c", block.code)
            process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment, stderr=said)
            await process.wait()
        assert process.returncode == 0, (tmp_path / "said").read_text(errors="replace")[-5_000:]
        billed = sum((await service.texts()).values())
        assert billed == 1_000 if needed & {*ENGINES} else billed > 0

"""The README's code, run as it stands; `openai:` goes to the simulated service."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from benchmarks.server import Server

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python( notebook)?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SCRIPTS = [code for notebook, code in BLOCKS if not notebook]
NOTEBOOKS = [code for notebook, code in BLOCKS if notebook]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def first_line(code: str) -> str:
    return next(line for line in code.splitlines() if "model=" in line or "Embedder(" in line).strip()


@pytest.fixture
async def sections(database: str) -> str:
    """A database with the table that the README fills."""
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS sections;"
        "CREATE TABLE sections (id serial PRIMARY KEY, content text, embedding vector(1536));"
        "INSERT INTO sections (content) SELECT 'Section ' || n FROM generate_series(1, 100) n"
    )
    await connection.close()
    return database


@pytest.mark.parametrize("code", SCRIPTS, ids=first_line)
async def test_a_script_of_the_readme_runs(code: str, tmp_path: Path, sections: str) -> None:
    async with Server() as server:
        environment = os.environ | {
            "OPENAI_BASE_URL": server.url,
            "OPENAI_API_KEY": "sk-simulated",
            "DATABASE_URL": sections,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", code), cwd=tmp_path, env=environment, stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert server.ledger.billed_tokens > 0


@pytest.mark.parametrize("code", NOTEBOOKS)
async def test_a_notebook_cell_of_the_readme_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    compiled = compile(code, "notebook", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(compiled, {})
    printed = capsys.readouterr().out
    assert printed.count("1.") == 3


def test_the_readme_has_a_screen_for_each_use() -> None:
    assert len(SCRIPTS) == 6
    assert len(NOTEBOOKS) == 1

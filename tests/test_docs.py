"""The README and docs/: their code runs as it stands (`openai:` goes to the simulated service), their commands and SQL
are taken, their links lead somewhere, and what is generated is current.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer.main

import aembed
from aembed import Embedder, FakeProvider, PostgresColumn, StoreError
from aembed.cli._app import make_app
from docs import options_table
from tests.pages import PAGES, README, ROOT, Block, blocks, prose
from tests.service.server import Server

SCRIPTS = [block for block in blocks("python", "") if block.page != "README.md"]
NOT_RUN_HERE = ("before", "airflow", "engine", "framework", "fixture", "cluster")
"""Of earlier code and of clusters; the others are run by tests/integrations and tests/test_testing.py."""
COMMANDS: Any = typer.main.get_command(make_app())
ASKS = re.compile(r"\.(embed_\w+|stream|backfill|search|search_many)\(")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
TABLES = """CREATE EXTENSION IF NOT EXISTS vector;
    DROP TABLE IF EXISTS sections, notes, notes_refusals, notes_meta, notes_leases, notes_workers, documents,
        documents_refusals, documents_meta, documents_leases, documents_workers;
    DROP SCHEMA IF EXISTS aembed CASCADE;
    CREATE TABLE sections (id serial PRIMARY KEY, content text, embedding vector(1536));
    INSERT INTO sections (content) SELECT 'Section ' || n FROM generate_series(1, 100) n"""


async def run_sql(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    async with Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
        yield server


@pytest.fixture
async def sections(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the table that the pages fill."""
    await run_sql(database, TABLES)
    monkeypatch.setenv("DATABASE_URL", database)
    return database


@pytest.mark.parametrize("block", blocks("python", "", "README.md"), ids=str)
async def test_a_script_of_the_readme_runs_in_its_own_process(block: Block, service: Server, tmp_path: Path) -> None:
    command = (sys.executable, "-W", "error", "-c", block.code)
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert service.ledger.billed_tokens > 0


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
async def test_a_script_of_the_docs_runs(
    block: Block, service: Server, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "DATABASE_URL" in block.code:
        database = request.getfixturevalue("database")
        await run_sql(database, TABLES)
        monkeypatch.setenv("DATABASE_URL", database)
    compiled = compile(block.code, str(block), "exec")
    with chdir(tmp_path):
        await asyncio.to_thread(exec, compiled, {"__name__": "__main__"})
    # What is submitted is billed by a batch, hours later.
    asks = "openai:" in block.code and ASKS.search(block.code) and "batch=True" not in block.code
    assert service.ledger.billed_tokens > 0 or not asks


@pytest.mark.parametrize("block", blocks("python", "notebook"), ids=str)
async def test_a_notebook_cell_runs(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    compiled = compile(block.code, "notebook", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(compiled, {})
    assert capsys.readouterr().out.count("1.") == 3


@pytest.mark.parametrize("block", blocks("python", "option"), ids=str)
def test_the_options_that_are_shown_are_there(block: Block) -> None:
    exec(block.code, {})


@pytest.mark.parametrize("block", [block for kind in NOT_RUN_HERE for block in blocks("python", kind)], ids=str)
def test_what_is_not_run_can_be_read(block: Block) -> None:
    compile(block.code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_each_block_of_python_is_run_or_says_that_it_is_not() -> None:
    assert {block.kind for block in blocks("python")} == {
        "",
        "notebook",
        "app",
        "option",
        "package",
        *NOT_RUN_HERE,
    }
    assert len(SCRIPTS) > 25
    assert len(blocks("python", "", "coming-from.md")) >= 11


def typed_commands() -> Iterator[tuple[Block, list[str]]]:
    """Every call of the command in blocks of whatever language but Python, with its arguments."""
    for block in blocks():
        for line in block.code.replace("\\\n", " ").splitlines() if block.language != "python" else ():
            if re.search(r"aembed\s+(index|search|backfill|export|status|failures|move|remove|cache)\b", line):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                at = next((i for i, word in enumerate(words[:-1]) if word.endswith("aembed")), None)
                if at is not None and words[at + 1] in COMMANDS.commands:
                    yield block, words[at + 1 :]


TYPED = list(typed_commands())


@pytest.mark.parametrize(("block", "words"), TYPED, ids=[f"{block}-{words[0]}" for block, words in TYPED])
def test_a_command_that_is_shown_has_these_flags(block: Block, words: list[str]) -> None:
    name, *arguments = words
    COMMANDS.commands[name].make_context(f"aembed {name}", arguments).close()


def test_there_are_commands_to_be_tried() -> None:
    assert len(TYPED) > 25


ROLE = "worker"


@pytest.fixture
async def around(database: str) -> AsyncIterator[str]:
    """What the SQL of the pages speaks of."""
    await run_sql(
        database,
        "DROP EXTENSION IF EXISTS vector CASCADE; CREATE SCHEMA IF NOT EXISTS extensions;"
        "DROP TABLE IF EXISTS sections CASCADE; DROP SCHEMA IF EXISTS aembed CASCADE;"
        "CREATE TABLE sections (id serial PRIMARY KEY, content text);"
        "CREATE SCHEMA aembed; CREATE TABLE aembed.columns (a text);"
        f"CREATE PUBLICATION supabase_realtime FOR TABLE sections; CREATE ROLE {ROLE};",
    )
    yield database
    await run_sql(
        database,
        "DROP PUBLICATION supabase_realtime; DROP EXTENSION IF EXISTS vector CASCADE; DROP TABLE sections;",
        f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE};",
    )


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("sql")}))
async def test_the_sql_of_a_page_is_taken(page: str, around: str) -> None:
    for block in blocks("sql", page=page):
        await run_sql(around, block.code)


async def test_a_backfill_leaves_updated_at_to_triggers_of_the_text(sections: str) -> None:
    await run_sql(
        sections,
        "ALTER TABLE sections ADD COLUMN updated_at timestamptz NOT NULL DEFAULT '2020-01-01';"
        "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.updated_at := pg_catalog.now(); RETURN NEW; END';"
        "CREATE TRIGGER touch BEFORE UPDATE OF content ON sections FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    column = PostgresColumn(sections, "sections", text="content")
    async with Embedder(FakeProvider(dimensions=1_536)) as embedder:
        assert (await embedder.backfill(column)).stored == 100
    await column.aclose()
    connection = await asyncpg.connect(sections)
    assert await connection.fetchval("SELECT count(*) FROM sections WHERE updated_at > '2020-01-02'") == 0
    await connection.close()


async def test_a_published_table_without_replica_identity_is_told_before_anything_is_paid(sections: str) -> None:
    await run_sql(
        sections,
        "ALTER TABLE sections DROP CONSTRAINT sections_pkey; CREATE UNIQUE INDEX ON sections (id);"
        "DROP PUBLICATION IF EXISTS published; CREATE PUBLICATION published FOR TABLE sections",
    )
    column, provider = PostgresColumn(sections, "sections", text="content", key="id"), FakeProvider(dimensions=1_536)
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError, match="replica identity"):
            await embedder.backfill(column)
    await column.aclose()
    assert provider.ledger.requests == 0
    await run_sql(sections, "DROP PUBLICATION published")


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(path: Path) -> set[str]:
    return {slug(heading) for heading in HEADING.findall(prose(path))}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(prose(path)):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        there = (path.parent / name).resolve() if name else path
        assert there.is_relative_to(ROOT), target
        assert there.is_file(), target
        assert not anchor or anchor in anchors_of(there), target


def test_every_page_is_in_the_lists() -> None:
    names = {path.stem for path in PAGES if path != README} - {"index"}
    index, readme = (path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "index.md", README))
    for name in names:
        assert f"]({name}.md)" in index, name
        assert re.search(rf"^{name}$", index, re.MULTILINE), f"{name} is in no toctree"
        assert name == "api" or f"](docs/{name}.md" in readme, name


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_page_of_options_is_what_the_code_says() -> None:
    written = options_table.PAGE.read_text(encoding="utf-8")
    assert written == options_table.page(), "python -m docs.options_table"


def test_every_public_name_stands_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in set(aembed.__all__) - {"__version__"}:
        assert re.search(rf"aembed\.{name}$|^\| `{name}` \|", page, re.MULTILINE), name


def test_every_error_stands_in_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name in aembed.__all__:
        if name.endswith("Error"):
            assert f"`{name}`" in page, name


def public_things() -> Iterator[tuple[str, object]]:
    for name in aembed.__all__:
        thing = getattr(aembed, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield name, thing
        if inspect.isclass(thing):
            for member in dir(thing):
                value = inspect.getattr_static(thing, member)
                if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name, thing in public_things() if not inspect.getdoc(thing)] == []

"""The command and stores whose texts have prefixes, against a simulated service over real sockets: row A25."""

from __future__ import annotations

import asyncio
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

from aembed import Embedder, Preparation, Record, Space, SQLiteColumn, open_provider
from aembed.cli._options import parse_option
from aembed.stores._rules import arguments_of
from tests.cli.command import Ran, aembed, notes
from tests.hostile.jobs import KEY
from tests.service.server import Server
from tests.service.service import Model, Rules
from tests.service.vectors import digest

NOMIC, MXBAI = "nomic-ai/nomic-embed-text-v1.5", "mixedbread-ai/mxbai-embed-large-v1"
RULES = Rules(models={NOMIC: Model(768), MXBAI: Model(1_024)})
TEXTS = [note["text"] for note in notes(6)]


class Command:
    """Runs commands in a folder, with a key, and tells what the service was asked for since the last one."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._seen = dict[bytes, int]()

    async def __call__(self, *arguments: str, code: int = 0) -> tuple[Ran, dict[bytes, int]]:
        ran = await asyncio.to_thread(aembed, self._folder, *arguments, env={"OPENAI_API_KEY": KEY})
        assert ran.code == code, ran.err
        billed = dict(self._server.ledger.times_billed)
        new = {key: times for key, times in billed.items() if times != self._seen.get(key, 0)}
        self._seen = billed
        return ran, new


def digests(prefix: str, texts: list[str]) -> set[bytes]:
    return {digest(f"{prefix}{text}".encode()) for text in texts}


def command_in(said: str) -> list[str]:
    """The one command of the one warning."""
    assert said.count("goes on without it") == 1, said
    found = re.search(r":  (aembed .*)$", said, re.MULTILINE)
    assert found, said
    return shlex.split(found[1])[1:]


async def make_old_store(server: Server, folder: Path, model: str) -> None:
    """One whose texts have no prefixes, as 0.1.0 made them."""
    provider = open_provider(f"tei:{model}", base_url=server.url, document_prefix="", query_prefix="")
    async with Embedder(provider) as embedder:
        await embedder.embed_into(folder / "old.db", [Record(str(note["id"]), note["text"]) for note in notes(6)])


async def test_a25_an_old_store_says_which_command_embeds_it_anew_and_it_works(tmp_path: Path) -> None:
    async with Server(rules=RULES) as server:
        await make_old_store(server, tmp_path, NOMIC)
        run = Command(server, tmp_path)
        ran, sent = await run("search", "a question", "--store", "old.db")
        assert sent.keys() == digests("", [*TEXTS, "a question"])
        _, sent = await run(*command_in(ran.err), "--yes")
        assert sent.keys() == digests("search_document: ", TEXTS)
        ran, sent = await run("search", "a question", "--store", "old-new.db")
        assert sent.keys() == digests("search_query: ", ["a question"])
        assert ran.err == ""
        ran, sent = await run("search", "a question", "--store", "old-new.db", "--option", "query_prefix=x: ", code=2)
        assert sent == {}
        assert "query_prefix" in ran.err


async def test_a25_rows_whose_queries_alone_lack_a_prefix_stay(tmp_path: Path) -> None:
    async with Server(rules=RULES) as server:
        await make_old_store(server, tmp_path, MXBAI)
        run = Command(server, tmp_path)
        ran, _ = await run("search", "a question", "--store", "old.db")
        await run(*command_in(ran.err))
        _, sent = await run("search", "a question", "--store", "old.db")
        assert sent.keys() == digests("Represent this sentence for searching relevant passages: ", ["a question"])


async def test_a25_an_old_column_says_which_command_fills_another_and_it_works(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, mark TEXT)")
        connection.executemany("INSERT INTO notes (content) VALUES (?)", [(text,) for text in TEXTS])
    async with Server(rules=RULES) as server:
        provider = open_provider(f"tei:{NOMIC}", base_url=server.url, document_prefix="", query_prefix="")
        async with Embedder(provider) as embedder:
            column = SQLiteColumn(tmp_path / "app.db", "notes", text="content", fingerprint="mark")
            await embedder.backfill(column)
            await column.aclose()
        run, table = Command(server, tmp_path), ("--store", "app.db", "--table", "notes", "--text", "content")
        ran, sent = await run("search", "a question", *table, "--fingerprint", "mark")
        assert sent.keys() == digests("", [*TEXTS, "a question"])
        _, sent = await run(*command_in(ran.err), "--yes")
        assert sent.keys() == digests("search_document: ", TEXTS)
        ran, sent = await run("search", "a question", *table, "--vector", "embedding_new")
        assert sent.keys() == digests("search_query: ", ["a question"])
        assert ran.err == ""


async def test_a25_an_options_text_is_read_as_it_was_written() -> None:
    for prefix in ("query: ", "true", "5", '"quoted"', "two\nlines", "null", ""):
        space = Space("tei", NOMIC, preparation=str(Preparation("d", prefix)))
        flags = arguments_of(space)
        assert dict(map(parse_option, flags[flags.index("--option") + 1 :: 2])) == {
            "document_prefix": "d",
            "query_prefix": prefix,
        }
        assert all(flag.isprintable() for flag in flags)

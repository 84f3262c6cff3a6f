"""The commands that errors advise are whole: they are run as they were told."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio.to_thread
import pytest

from tests.cli.command import Ran, aembed, notes, write_jsonl
from tests.service.server import Server

OPENAI = ("-m", "openai:text-embedding-3-small")
KEY = {"OPENAI_API_KEY": "sk-x"}


def advised(said: str) -> list[str]:
    """The words of the last command in the line that has one."""
    line = next(line for line in said.splitlines() if "aembed " in line)
    return shlex.split(line.rpartition("aembed ")[2].removesuffix(" lists them)"))


def follow(cwd: Path, ran: Ran) -> Ran:
    return aembed(cwd, *advised(ran.err or ran.out), env=KEY)


def test_t10_another_model_keeps_every_flag(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x", "--store", "it's.db").code == 0
    flags = ["--dimensions", "32", "--too-long", "truncate", "--concurrency", "auto", "--max-billed-tokens", "5000"]
    given = ("index", "a.jsonl", "-s", "it's.db", "-qm", "fake:y", *flags, "--json", "--failures-to", "-f.jsonl")
    refused = aembed(tmp_path, *given[:-2], "--failures-to=-f.jsonl")
    assert (refused.code, refused.out) == (2, "")
    words = advised(refused.err)
    assert set(flags) | {"--quiet", "--json", "--failures-to=-f.jsonl"} <= set(words)
    done = aembed(tmp_path, *words)
    assert (done.code, done.json["stored"]) == (0, 3), done.err
    new = words[words.index("--store") + 1]
    assert aembed(tmp_path, "status", "--store", new, "--json").json["space"]["dimensions"] == 32
    assert aembed(tmp_path, "status", "--store", "it's.db", "--json").json["space"]["model"] == "x"


async def test_t10_texts_go_to_the_server_that_was_meant_and_to_no_other(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    async with Server() as one, Server() as other:

        def steps() -> tuple[Ran, ...]:
            first = aembed(tmp_path, "index", "a.jsonl", *OPENAI, "--base-url", one.url, env=KEY)
            job = ("index", "a.jsonl", *OPENAI, "--base-url", other.url, "--dimensions", "256")
            refused = aembed(tmp_path, *job, env=KEY)
            done = follow(tmp_path, refused)
            return first, refused, done, aembed(tmp_path, "status", "-s", "aembed-new.db", "--json")

        first, refused, done, status = await anyio.to_thread.run_sync(steps)
        assert (first.code, refused.code, done.code) == (0, 2, 0), done.err
        assert (one.ledger.accepted, other.ledger.accepted) == (1, 1)
        assert (status.json["space"]["endpoint"], status.json["space"]["dimensions"]) == (other.url, 256)


def test_t10_a_search_with_another_model_is_told_the_stores_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(3))
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x", "--dimensions", "16", "--store", "s.db").code == 0
    search = ("search", "it's note 1", "-s", "s.db", "-k", "2", "--where", "even=true", "--json")
    for flags in (("-m", "fake:y"), ("-m", "fake:x", "--dimensions", "8")):
        refused = aembed(tmp_path, *search, *flags)
        assert (refused.code, refused.out) == (2, "")
        found = follow(tmp_path, refused)
        assert (found.code, len(found.json["matches"])) == (0, 2)


def test_t10_a_server_that_a_store_names_is_asked_by_a_whole_command(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")):
        pass
    write_jsonl(tmp_path / "a.jsonl", notes(1))
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x").code == 0
    with closing(sqlite3.connect(tmp_path / "aembed.db")) as connection, connection:
        (space,) = connection.execute("SELECT value FROM aembed_meta WHERE key = 'space'").fetchone()
        away = space.replace('"fake"', '"openai"').replace('"endpoint": ""', '"endpoint": "https://away.invalid/v1"')
        connection.execute("UPDATE aembed_meta SET value = ? WHERE key = 'space'", (away,))
    refused = aembed(tmp_path, "search", "note", "-k", "3", "--timeout", "2", env=KEY)
    assert refused.code == 2
    words = advised(refused.err)
    assert words == ["search", "--k", "3", "--timeout", "2.0", "note", "--base-url", "https://away.invalid/v1"]
    assert "away.invalid" in aembed(tmp_path, *words, "--timeout", "0.5", env=KEY).err


def test_t10_what_was_refused_is_tried_again_where_it_was(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*notes(2), {"id": "long", "text": "x" * 1_300_000}])
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x", "--store", "a b.db").code == 1
    listed = follow(tmp_path, aembed(tmp_path, "status", "--store", "a b.db"))
    assert (listed.code, listed.out.count("\n")) == (0, 1)
    again = follow(tmp_path, Ran(listed.code, "", listed.err))
    assert (again.code, again.out.startswith("3 texts, 0 stored, 2 unchanged, 1 failed, ")) == (1, True)


@pytest.mark.parametrize("key", [(), ("--key", "id")])
def test_t10_so_it_is_for_a_table(key: tuple[str, ...], tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.execute("INSERT INTO t (body) VALUES ('one'), (?)", ("x" * 1_300_000,))
    table = ("--store", "app.db", "--table", "t", "--text", "body", *key)
    assert aembed(tmp_path, "backfill", *table, "-m", "fake:x").code == 1
    listed = aembed(tmp_path, "failures", *table)
    again = follow(tmp_path, Ran(listed.code, "", listed.err))
    assert (again.code, again.out.startswith("1 text, 0 stored, 0 unchanged, 1 failed, ")) == (1, True), again

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aembed import Space, SQLiteStore
from aembed.types import Rows
from tests.cli.command import aembed, notes, write_jsonl

INDEX = ("-m", "fake:x", "--quiet")


def test_prints_score_id_and_two_lines(tmp_path: Path) -> None:
    text = "words of a text that is long " * 20
    write_jsonl(tmp_path / "a.jsonl", [*notes(6), {"id": "long", "text": text}])
    assert aembed(tmp_path, "index", "a.jsonl", *INDEX).code == 0
    ran = aembed(tmp_path, "search", text, "-k", "2", env={"COLUMNS": "60"})
    lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert lines[0] == "1.000  long"
    assert lines[1].startswith("       words of a text")
    assert lines[2].endswith(" …")
    assert len(lines) == 5
    assert max(map(len, lines)) <= 60


def test_headings_are_told_by_the_id(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", *INDEX).code == 0
    ran = aembed(tmp_path, "search", "Guide\nInstall\n\nType the command.", "-k", "1")
    assert ran.out == "1.000  guide.md#guide/install\n       Type the command.\n"


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store whose rows have values of several types."""
    rows = notes(5)
    rows[0]["year"], rows[3]["year"] = 2024, 1999
    rows[1]["kind"], rows[2]["kind"] = "odd one", "a>b=c"
    rows[2]["at"], rows[4]["at"] = {"page": 2}, {"page": 3}
    folder = tmp_path_factory.mktemp("dated")
    write_jsonl(folder / "a.jsonl", [*rows, {"id": "text", "text": "a year", "year": "2024"}])
    assert aembed(folder, "index", "a.jsonl", *INDEX).code == 0
    return folder


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (["even=true"], {"n0", "n2", "n4"}),
        (["even=true", "year=2024"], {"n0"}),
        (["year=2024"], {"n0", "text"}),
        (["kind=odd one"], {"n1"}),
        (["kind=none"], set()),
        (["year >= 1999", "year<2024"], {"n3"}),
        (['{"at": {"has": {"page": {"gt": 2}}}}', "even=true"], {"n4"}),
    ],
)
def test_where_reads_values_as_json_and_as_text(dated: Path, where: list[str], ids: set[str]) -> None:
    flags = [flag for condition in where for flag in ("--where", condition)]
    ran = aembed(dated, "search", "a question", "--json", *flags)
    assert {match["id"] for match in ran.json["matches"]} == ids


def test_a_condition_that_is_none_is_refused(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", *INDEX).code == 0
    ran = aembed(tmp_path, "search", "a question", "--where", '{"year": {"$gte": 2}}')
    assert (ran.code, ran.out) == (2, "")
    assert "where['year']: '$gte' is no operator; write 'gte', without the $" in " ".join(ran.err.split())


def test_hybrid_puts_the_rows_that_hold_a_name_first(tmp_path: Path) -> None:
    rows = [{"id": f"n{i}", "text": f"about option_{i} and more", "year": 2000 + i % 2} for i in range(40)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert aembed(tmp_path, "index", "a.jsonl", *INDEX).code == 0
    question = ("search", "what does option_21 do?", "-k", "3", "--json")
    plain = aembed(tmp_path, *question, "--no-hybrid").json["matches"]
    hybrid = aembed(tmp_path, *question, "--hybrid").json["matches"]
    assert [match["rank"] for match in plain] == [match["rank"] for match in hybrid] == [1, 2, 3]
    assert [match["id"] for match in hybrid] == ["n21", plain[0]["id"], plain[1]["id"]]
    assert hybrid[0]["score"] < hybrid[1]["score"] == plain[0]["score"]
    assert aembed(tmp_path, *question).json["matches"] == hybrid
    filtered = aembed(tmp_path, *question, "--hybrid", "--where", "year=2001").json["matches"]
    assert filtered[0]["id"] == "n21"
    assert {match["metadata"]["year"] for match in filtered} == {2001}


def test_nothing_found_is_said_apart(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", *INDEX).code == 0
    ran = aembed(tmp_path, "search", "a question", "--where", "a=b")
    assert (ran.code, ran.out, ran.err) == (0, "", "no row matches\n")


@pytest.mark.parametrize("command", ["search", "status", "failures"])
def test_a_store_that_is_not_there(tmp_path: Path, command: str) -> None:
    question = ["a question"] if command == "search" else []
    ran = aembed(tmp_path, command, *question, "--store", "no.db")
    assert (ran.code, ran.out) == (2, "")
    assert "no.db holds no rows yet" in ran.err
    assert "aembed index PATH --store no.db" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("question", ["", " "])
def test_an_empty_question_is_refused(docs: Path, tmp_path: Path, question: str) -> None:
    assert aembed(tmp_path, "index", "docs", *INDEX).code == 0
    ran = aembed(tmp_path, "search", question)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")


def test_a_store_without_room_for_words_is_searched_by_its_vectors(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": f"n{i}", "text": f"about option_{i} and more"} for i in range(40)])
    assert aembed(tmp_path, "index", "a.jsonl", *INDEX).code == 0
    with closing(sqlite3.connect(tmp_path / "aembed.db")) as connection:
        connection.execute("CREATE VIEW aembed_words_changes AS SELECT 1")
    prose = aembed(tmp_path, "search", "what is there to be read here?")
    assert (prose.code, prose.err) == (0, "")
    named = aembed(tmp_path, "search", "what does option_21 do?")
    assert (named.code, len(named.out.splitlines())) == (0, 10)
    assert named.err.startswith("exact names were not looked up: ")
    assert aembed(tmp_path, "search", "what does option_21 do?", "--hybrid").code == 2


def test_control_characters_of_a_text_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "a\x1b[31m", "text": "red \x1b[2J\x9b31m \u202egnikaer"}])
    assert aembed(tmp_path, "index", "a.jsonl", *INDEX).code == 0
    ran = aembed(tmp_path, "search", "red")
    assert ran.out.endswith("  a [31m\n       red [2J 31m gnikaer\n")


def test_d11_no_mark_that_turns_or_hides_text_reaches_the_terminal(tmp_path: Path) -> None:
    marks = "\u200e\u200f\u061c\u202e\u2067\u200b\xad\ufeff\u2060\u206f\ufffb\U000e0041\U0001d173"
    joined = "می\u200cخواهم"  # joiners shape the letters of a word
    write_jsonl(tmp_path / "a.jsonl", [{"id": f"a{marks}b", "text": f"start{marks} end {joined}"}])
    assert aembed(tmp_path, "index", "a.jsonl", *INDEX).code == 0
    ran = aembed(tmp_path, "search", "start")
    assert not set(marks) & set(ran.out)
    assert joined in ran.out
    (match,) = aembed(tmp_path, "search", "start", "--json").json["matches"]
    assert match["id"] == f"a{marks}b"
    for command in (("status", "--store", f"a{marks}b.db"), ("search", "x", "--where", f"y{marks}")):
        refused = aembed(tmp_path, *command)
        assert (refused.code, set(marks) & set(refused.err)) == (2, set())


async def test_another_servers_store_does_not_say_where_texts_go(tmp_path: Path) -> None:
    """The address in a store that came from somebody else is not trusted with the question and the key."""
    store = SQLiteStore(tmp_path / "aembed.db")
    await store.prepare(Space("openai", "text-embedding-3-small", 2, "https://elsewhere.example/v1"))
    await store.write(Rows(["a"], ["a"], [None], [None], [b"a"], [b"a"], np.ones((1, 2), np.float32)))
    await store.aclose()
    ran = aembed(tmp_path, "search", "a question", env={"OPENAI_API_KEY": "sk-canary"})
    assert (ran.code, ran.out) == (2, "")
    assert "aembed search 'a question' --base-url https://elsewhere.example/v1" in ran.err
    assert "canary" not in ran.err

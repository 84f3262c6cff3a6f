"""The local model in the command: what a newcomer sees first, and what whoever has a store already sees."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import aembed


def test_a_newcomer_indexes_and_finds(docs: Path, tmp_path: Path) -> None:
    first = aembed(tmp_path, "index", "docs")
    assert (first.code, first.err) == (0, "docs -> sqlite:///aembed.db, local:all-MiniLM-L6-v2, 384 dimensions\n")
    assert first.out.startswith("4 texts, 4 stored")
    assert "4 unchanged, 0 requests" in aembed(tmp_path, "index", "docs").out
    found = aembed(tmp_path, "search", "what should I buy?", "-k", "1")
    assert (found.code, found.err) == (0, "")
    assert "notes.txt" in found.out


def test_a_store_of_the_other_model_goes_on_with_it(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "local:use-multilingual-3").code == 0
    for model in ((), ("-m", "local")):
        again = aembed(tmp_path, "index", "docs", *model)
        assert "local:use-multilingual-3, 512 dimensions" in again.err
        assert "4 unchanged, 0 requests" in again.out
        assert aembed(tmp_path, "search", "remember the milk", "-k", "1", *model).out.count("notes.txt") == 1
    for command in (("index", "docs"), ("search", "milk")):
        named = aembed(tmp_path, *command, "-m", "local:all-MiniLM-L6-v2")
        assert (named.code, named.out) == (2, "")
        assert "local:use-multilingual-3" in named.err

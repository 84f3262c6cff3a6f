from __future__ import annotations

from pathlib import Path

from tests.cli.command import aembed, notes, write_jsonl


def test_tells_what_the_store_holds(docs: Path, tmp_path: Path) -> None:
    write_jsonl(docs / "a.jsonl", [*notes(3), {"id": "e", "text": ""}])
    assert aembed(tmp_path, "index", "docs", "-m", "fake:x").code == 1
    ran = aembed(tmp_path, "status")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:3] == ["store     sqlite:///aembed.db", "rows      7", "model     fake:x, 64 dimensions"]
    assert lines[3].startswith("size      ")
    assert lines[5] == f"sources   {docs}  7 rows"
    assert lines[6].startswith("last run  8 texts, 7 stored, 0 unchanged, 1 failed, ")


def test_json(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "fake:x").code == 0
    told = aembed(tmp_path, "status", "--json").json
    assert told["rows"] == 4
    space = {"provider": "fake", "model": "x", "dimensions": 64, "endpoint": "", "origin": "", "preparation": ""}
    assert told["space"] == space
    assert told["size_bytes"] >= (tmp_path / "aembed.db").stat().st_size > 0
    assert told["sources"] == {str(docs): 4}
    assert told["last_run"]["stored"] == 4

from __future__ import annotations

from pathlib import Path

from tests.cli.command import aembed, notes, write_jsonl


def test_lists_what_was_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*notes(3), {"id": "long", "text": "x" * 1_300_000}])
    assert aembed(tmp_path, "index", "a.jsonl", "-m", "fake:x").code == 1
    ran = aembed(tmp_path, "failures")
    assert ran.code == 0
    assert ran.out.startswith("long  InputError: ")
    assert ran.out.count("\n") == 1
    assert ran.err == f"1 refused; to try them again:  aembed index {tmp_path}/a.jsonl --retry-failed\n"
    told = aembed(tmp_path, "failures", "--json").json["failures"]
    assert [(each["id"], each["error"]) for each in told] == [("long", "InputError")]


def test_none(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "fake:x").code == 0
    ran = aembed(tmp_path, "failures")
    assert (ran.code, ran.out, ran.err) == (0, "", "no failures\n")

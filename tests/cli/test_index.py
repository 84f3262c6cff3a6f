from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.command import aembed, notes, write_jsonl

FAKE = ("-m", "fake:x")


def test_second_run_sends_nothing(docs: Path, tmp_path: Path) -> None:
    first = aembed(tmp_path, "index", "docs", *FAKE)
    assert first.code == 0
    assert first.out.startswith("4 texts, 4 stored, 0 unchanged, 1 request, ")
    assert first.out.count("\n") == 1
    assert first.err == "docs -> sqlite:///aembed.db, fake:x, 64 dimensions\n"
    second = aembed(tmp_path, "index", "docs", "--json")
    assert second.code == 0
    assert {"inputs": 4, "unchanged": 4, "stored": 0, "requests": 0, "stopped": None}.items() <= second.json.items()


def test_dry_run_creates_nothing(docs: Path, tmp_path: Path) -> None:
    ran = aembed(tmp_path, "index", "docs", *FAKE, "--dry-run", "--failures-to", "failures.jsonl")
    assert ran.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]
    facts = {line[:14].strip(): line[14:].split()[0] for line in ran.out.splitlines()}
    assert facts == {
        "texts": "4",
        "new": "4",
        "changed": "0",
        "unchanged": "0",
        "failing": "0",
        "duplicates": "0",
        "to be removed": "0",
        "requests": "1",
        "tokens": facts["tokens"],
        "price": "$0.0000",
    }
    assert 10 < int(facts["tokens"]) < 50


def test_dry_run_tells_what_the_run_would_do(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", *FAKE).code == 0
    guide = docs / "guide.md"
    guide.write_text(guide.read_text().replace("Ask a question.", "Ask.").replace("## Install", "## Set up"))
    (docs / "copy.txt").write_text("Remember the milk.\n")
    (docs / "new.txt").write_text("Something new.\n")
    (docs / "empty.jsonl").write_text('{"id": "e", "text": ""}\n')
    before = (tmp_path / "aembed.db").read_bytes()
    planned = aembed(tmp_path, "index", "docs", "--dry-run", "--json").json
    assert (tmp_path / "aembed.db").read_bytes() == before
    counts = {name: planned[name] for name in ("inputs", "new", "changed", "unchanged", "failed", "stale")}
    assert counts == {
        "inputs": 7,
        "new": 3,
        "changed": 1,
        "unchanged": 2,
        "failed": 1,
        "stale": ["guide.md#guide/install"],
    }
    assert [failure["id"] for failure in planned["failures"]] == ["e"]
    run = aembed(tmp_path, "index", "docs", "--json")
    assert run.code == 1
    assert run.json["stored"] == 4
    assert run.json["removed"] == 1


def test_dry_run_tells_the_shortest_time(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(10))
    flags = ("--max-batch-size", "1", "--requests-per-minute", "2", "--tokens-per-minute", "1000000")
    ran = aembed(tmp_path, "index", "a.jsonl", *FAKE, "--dry-run", *flags)
    assert "time           5 min 00 s  at the least, at the given rate limits\n" in ran.out


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_missing_path_removes_nothing(docs: Path, tmp_path: Path, dry: tuple[str, ...]) -> None:
    assert aembed(tmp_path, "index", "docs", *FAKE).code == 0
    shutil.move(docs, tmp_path / "moved")
    ran = aembed(tmp_path, "index", "docs", *dry)
    assert (ran.code, ran.out) == (2, "")
    assert "docs does not exist" in ran.err
    assert aembed(tmp_path, "status", "--json").json["rows"] == 4


def test_broken_lines_fail_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = [json.dumps(row) for row in notes(3)]
    (tmp_path / "a.jsonl").write_text("\n".join([good[0], "{broken", good[1], '{"id": "x"}', good[2]]) + "\n")
    ran = aembed(tmp_path, "index", "a.jsonl", *FAKE, "--failures-to", "failures.jsonl")
    assert ran.code == 1
    assert ran.out.startswith("5 texts, 3 stored, 0 unchanged, 2 failed, ")
    told = ran.err.splitlines()[1:]
    assert told[0] == "2 failed:"
    assert told[1].startswith("  a.jsonl:2: it is not a JSON object on one line (")
    assert told[2] == "  a.jsonl:4: it has no field 'text'; add it, or name the field that holds it (--text-field NAME)"
    kept = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [(each["id"], each["index"], each["error"]) for each in kept] == [
        ("a.jsonl:2", 1, "InputError"),
        ("a.jsonl:4", 3, "InputError"),
    ]


def test_twenty_failures_are_shown_and_all_are_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": f"e{i}", "text": ""} for i in range(25)])
    ran = aembed(tmp_path, "index", "a.jsonl", *FAKE, "--failures-to", "failures.jsonl")
    assert ran.code == 1
    assert ran.err.count("is empty") == 20
    assert "  ... and 5 more; --failures-to FILE writes all of them\n" in ran.err
    assert len((tmp_path / "failures.jsonl").read_text().splitlines()) == 25


def test_duplicate_ids_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*notes(3), {"id": "n1", "text": "another"}])
    ran = aembed(tmp_path, "index", "a.jsonl", *FAKE)
    assert (ran.code, ran.out) == (2, "")
    assert "two inputs have the id 'n1'" in ran.err
    assert not (tmp_path / "aembed.db").exists()


def test_limit_reads_the_first_and_removes_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(600))
    assert aembed(tmp_path, "index", "a.jsonl", *FAKE, "--limit", "300", "--json").json["stored"] == 300
    rest = aembed(tmp_path, "index", "a.jsonl", "--json").json
    assert (rest["stored"], rest["unchanged"]) == (300, 300)
    few = aembed(tmp_path, "index", "a.jsonl", "--limit", "2", "--yes", "--json").json
    assert (few["inputs"], few["unchanged"], few["removed"]) == (2, 2, 0)


def test_standard_input_with_fields_of_other_names(tmp_path: Path) -> None:
    lines = '{"key": 7, "body": "seven", "lang": "en", "rest": 1}\n'
    flags = ("--id-field", "key", "--text-field", "body", "--metadata-fields", "lang,year")
    assert aembed(tmp_path, "index", "-", *flags, *FAKE, input=lines).code == 0
    found = aembed(tmp_path, "search", "seven", "--json").json["matches"]
    assert found == [
        {"rank": 1, "score": pytest.approx(1, abs=1e-5), "id": "7", "text": "seven", "metadata": {"lang": "en"}}
    ]


def test_quiet_prints_failures_only(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*notes(2), {"id": "e", "text": ""}])
    ran = aembed(tmp_path, "index", "a.jsonl", *FAKE, "--quiet")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "1 failed:\n  e: the text of 'e' is empty; leave it out\n"


def test_refused_earlier_is_said_and_can_be_tried_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*notes(2), {"id": "long", "text": "x" * 1_300_000}])
    assert aembed(tmp_path, "index", "a.jsonl", *FAKE).code == 1
    second = aembed(tmp_path, "index", "a.jsonl")
    assert second.code == 1
    assert "1 refused earlier; --retry-failed tries them again\n" in second.err
    third = aembed(tmp_path, "index", "a.jsonl", "--retry-failed")
    assert third.code == 1
    assert "refused earlier" not in third.err


def test_environment_names_store_and_model(docs: Path, tmp_path: Path) -> None:
    env = {"AEMBED_STORE": "sqlite:///other.db", "AEMBED_MODEL": "fake:y"}
    ran = aembed(tmp_path, "index", "docs", env=env)
    assert ran.err == "docs -> sqlite:///other.db, fake:y, 64 dimensions\n"
    assert (tmp_path / "other.db").exists()


def test_store_keeps_its_model_and_dimensions(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "fake:y", "--dimensions", "8").code == 0
    ran = aembed(tmp_path, "index", "docs", "--json", env={"AEMBED_MODEL": "fake:z"})
    assert ran.json["unchanged"] == 4
    assert ran.err == "docs -> sqlite:///aembed.db, fake:y, 8 dimensions\n"


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_another_model_is_refused_with_the_way_out(docs: Path, tmp_path: Path, dry: tuple[str, ...]) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "fake:y").code == 0
    ran = aembed(tmp_path, "index", "docs", "-m", "fake:z", *dry)
    assert (ran.code, ran.out) == (2, "")
    assert "aembed index sqlite:///aembed.db --store sqlite:///aembed-new.db -m fake:z" in ran.err


@pytest.mark.parametrize("old", ["sqlite:///aembed.db", "aembed.db"])
def test_a_store_is_a_source(docs: Path, tmp_path: Path, old: str) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "fake:y").code == 0
    ran = aembed(tmp_path, "index", old, "--store", "sqlite:///new.db", "-m", "fake:z", "--json")
    assert (ran.code, ran.json["stored"]) == (0, 4)
    again = aembed(tmp_path, "index", "docs", "--store", "new.db", "--json")
    assert (again.json["unchanged"], again.json["stored"]) == (4, 0)
    assert "fake:z" in again.err


def test_a_part_of_a_store(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", "-m", "fake:y").code == 0
    ran = aembed(tmp_path, "index", "aembed.db", "-s", "new.db", "-m", "fake:z", "--limit", "3", "--json")
    assert ran.json["inputs"] == ran.json["stored"] == 3


def test_a_store_beside_other_paths_is_refused(docs: Path, tmp_path: Path) -> None:
    ran = aembed(tmp_path, "index", "docs", "sqlite:///old.db", *FAKE)
    assert (ran.code, ran.out) == (2, "")
    assert "read alone" in ran.err


def test_an_empty_store_is_no_source(tmp_path: Path) -> None:
    ran = aembed(tmp_path, "index", "sqlite:///old.db", *FAKE)
    assert (ran.code, ran.out) == (2, "")
    assert "old.db holds no rows of aembed" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_i16_a_new_model_without_downtime_by_the_line_that_the_error_tells(
    docs: Path, tmp_path: Path, database: str
) -> None:
    """The old store answers as before, until the next command names the new one."""
    user, env = "postgres@", {"PGUSER": "postgres"}
    store = f"{database}?table=notes".replace(user, "")
    assert aembed(tmp_path, "index", "docs", "-s", store, "-m", "fake:y", env=env).code == 0
    refused = aembed(tmp_path, "index", "docs", "-s", store, "-m", "fake:z", env=env)
    assert refused.code == 2
    line = shlex.split(refused.err.strip().rpartition("aembed ")[2])
    assert line == ["index", store, "--store", f"{store}_new", "-m", "fake:z"]
    assert aembed(tmp_path, *line, "--json", env=env).json["stored"] == 4
    assert aembed(tmp_path, "search", "anything", "-s", store, env=env).code == 0
    new = aembed(tmp_path, "index", "docs", "-s", f"{store}_new", "--json", env=env)
    assert (new.json["unchanged"], new.json["requests"]) == (4, 0)


def test_concurrency_is_a_number_or_auto(docs: Path, tmp_path: Path) -> None:
    assert aembed(tmp_path, "index", "docs", *FAKE, "--concurrency", "auto").code == 0
    assert aembed(tmp_path, "index", "docs", "--concurrency", "3").code == 0
    for wrong in ("0", "-1", "2.5", "many"):
        refused = aembed(tmp_path, "index", "docs", "--concurrency", wrong)
        assert refused.code == 2
        assert "auto" in refused.err

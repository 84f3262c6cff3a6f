from __future__ import annotations

from pathlib import Path

from tests.cli.command import aembed
from tests.sources import papers

FAKE = ("-m", "fake:x")


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_d9_what_is_skipped_is_told_and_a_clash_of_ids_refuses_nothing(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "f", a_csv="id,text\n0,a\n1,b\n", b_jsonl='{"id": 0, "text": "c"}\n', c_xyz="", d_xyz="", e_json="{}"
    )
    ran = aembed(tmp_path, "index", str(folder), *FAKE)
    assert (ran.code, ran.err.splitlines()[-1]) == (0, "3 files skipped: .xyz 2, .json 1")
    assert ran.out.startswith("3 texts, 3 stored")
    again = aembed(tmp_path, "index", str(folder), *FAKE, "--json")
    assert (again.json["unchanged"], again.json["skipped_files"]) == (3, {".xyz": 2, ".json": 1})
    (folder / "b.jsonl").unlink()
    dry = aembed(tmp_path, "index", str(folder), *FAKE, "--dry-run", "--json")
    assert (dry.json["inputs"], dry.json["new"], dry.json["skipped_files"]) == (2, 2, {".xyz": 2, ".json": 1})


def test_d9_rows_whose_file_is_told_apart_later_are_renamed_without_a_question(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", a_csv="id,text\n0,a\n1,b\n")
    assert aembed(tmp_path, "index", str(folder), *FAKE).code == 0
    write(folder, b_csv="id,text\n0,c\n")
    ran = aembed(tmp_path, "index", str(folder), *FAKE, "--json")
    assert (ran.json["stored"], ran.json["removed"], ran.json["billed_tokens"]) == (3, 2, 1)
    (folder / "b.csv").unlink()
    ran = aembed(tmp_path, "index", str(folder), *FAKE, "--json")
    assert (ran.json["stored"], ran.json["removed"], ran.json["billed_tokens"]) == (2, 3, 0)


def test_d9_an_emptied_folder_loses_its_rows_once_somebody_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", a_txt="words")
    assert aembed(tmp_path, "index", str(folder), *FAKE).code == 0
    (folder / "a.txt").unlink()
    ran = aembed(tmp_path, "index", str(folder), *FAKE)
    assert ran.code == 0
    assert f"1 of the 1 rows of {folder} are gone from it; they are kept (--yes removes them" in ran.err
    ran = aembed(tmp_path, "index", str(folder), *FAKE, "--yes")
    assert (ran.code, "1 removed" in ran.out) == (0, True)
    assert aembed(tmp_path, "index", str(folder), *FAKE).code == 2


def test_d9_a_path_that_is_gone_names_the_command_that_removes_its_rows(tmp_path: Path) -> None:
    folder = write(tmp_path / "my files", a_txt="words")
    assert aembed(tmp_path, "index", "my files/a.txt", *FAKE, "--store", "s.db").code == 0
    (folder / "a.txt").unlink()
    ran = aembed(tmp_path, "index", "my files/a.txt", *FAKE, "--store", "s.db")
    assert ran.code == 2
    assert f"or remove them:  aembed remove --store s.db --source '{folder}/a.txt'\n" in ran.err


def test_d10_the_separator_is_a_flag(tmp_path: Path) -> None:
    write(tmp_path, a_csv="text^n\nwords^1\n")
    assert aembed(tmp_path, "index", "a.csv", *FAKE, "--delimiter", "^").code == 0
    ran = aembed(tmp_path, "index", "a.csv", *FAKE, "--delimiter", "tab")
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "error: the delimiter 'tab' is not one character, such as ';'")


def test_d7_a_broken_document_is_one_line_of_the_command(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", a_pdf="junk", b_txt="words", c_ipynb="{}")
    (folder / "d.pdf").write_bytes(papers.pdf("Hello, world."))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ran = aembed(tmp_path, "index", str(folder), *FAKE, env={"TMPDIR": str(temporary)})
    assert (ran.code, list(temporary.iterdir())) == (1, [])
    assert ran.out.startswith("3 texts, 2 stored, 0 unchanged, 1 failed")
    assert ran.err.splitlines()[1:] == [
        "1 failed:",
        "  a.pdf: skipped: it is broken, or not what its ending says; repair it",
        "1 file skipped: .ipynb 1",
    ]

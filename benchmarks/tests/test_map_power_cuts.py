from __future__ import annotations

import io
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.promises.map_power_cuts import run
from tests.stage.power import library, recorded, recorded_module


@pytest.fixture(autouse=True)
def watched() -> None:
    try:
        library()
    except (LookupError, OSError) as error:
        pytest.skip(str(error))


def test_t24_after_power_cuts_while_a_map_is_made_every_search_is_exact() -> None:
    tally = run(1, cuts_each=1)
    assert tally.problems == []
    assert tally.while_made > 50
    assert tally.by_map > tally.searches / 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_same_power_cuts_make_answers_wrong_where_a_map_is_neither_synced_nor_compared() -> None:
    assert any(run(1, first, cuts_each=1, safe=False).wrong for first in range(3))


def test_a_name_that_was_given_by_a_rename_may_be_gone_and_what_was_synced_under_it_is_whole(tmp_path: Path) -> None:
    module: Any = SimpleNamespace(os=os)
    with recorded(tmp_path) as disk, recorded_module(module, disk):
        part = tmp_path / "a.part"
        with module.os.fdopen(module.os.open(part, os.O_CREAT | os.O_RDWR), "wb") as file:
            file.write(b"a" * 2_000)
            file.flush()
            module.os.fsync(file.fileno())
        part.replace(tmp_path / "a")
    assert module.os is os
    assert [kind for kind, *_ in disk.operations] == ["open", "write", "sync", "rename"]
    found = [cut.files for seed in range(50) for cut in disk.cuts([4], Random(seed))]
    assert {frozenset(files) for files in found} >= {frozenset({"a"}), frozenset({"a.part"}), frozenset()}
    assert {content for files in found for content in files.values()} == {b"a" * 2_000}


def test_other_files_of_that_module_are_not_noted(tmp_path: Path) -> None:
    module: Any = SimpleNamespace(os=os)
    (tmp_path / "here").mkdir()
    with recorded(tmp_path / "here") as disk, recorded_module(module, disk):
        descriptor = module.os.open(tmp_path / "there", os.O_CREAT | os.O_WRONLY)
        with module.os.fdopen(descriptor, "wb") as file:
            assert type(file.raw) is io.FileIO
        (tmp_path / "there").unlink()
    assert disk.operations == []

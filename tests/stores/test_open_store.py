from __future__ import annotations

import os
from pathlib import Path

import pytest

from aembed.errors import ConfigError
from aembed.stores import open_store
from aembed.stores.memory import MemoryStore
from aembed.stores.sqlite import SQLiteStore
from tests.stores.samples import SPACE, files


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("notes.db", "notes.db"),
        ("./folder/a:b.db", "folder/a:b.db"),
        ("sqlite:notes.db", "notes.db"),
        ("sqlite:///notes.db", "notes.db"),
        ("sqlite:///folder/notes 100%.db", "folder/notes 100%.db"),
        ("sqlite:///{folder}/absolute.db", "absolute.db"),
        ("{folder}/absolute.db", "absolute.db"),
        ("sqlite+aiosqlite:///notes.db", "notes.db"),
        ("what?#.db", "what?#.db"),
    ],
)
async def test_a_url_or_path_names_the_file(
    tmp_path: Path, url: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store(url.format(folder=tmp_path))
    await store.prepare(SPACE)
    await store.aclose()
    assert (tmp_path / made).is_file()


async def test_a_relative_path_is_kept_when_the_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("notes.db")
    os.chdir("other")
    await store.prepare(SPACE)
    await store.aclose()
    assert files(tmp_path) == ["notes.db", "other"]


def test_opening_creates_nothing(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path / "notes:1.db"), SQLiteStore)
    assert isinstance(open_store("memory:"), MemoryStore)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://me:secret@host/db", "known are .*memory.*sqlite"),
        ("sqlite://notes.db", "write sqlite:///notes.db"),
        ("sqlite:///notes.db?mode=ro", "no parameters"),
        ("memory:name", "write memory:"),
        ("", "name of a file"),
    ],
)
def test_what_cannot_be_opened_says_what_can(url: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)

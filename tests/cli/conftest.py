from __future__ import annotations

from pathlib import Path

import pytest

GUIDE = """# Guide

Welcome.

## Install

Type the command.

## Use

Ask a question.
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of two documents: four sections."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE, encoding="utf-8")
    (folder / "notes.txt").write_text("Remember the milk.\n", encoding="utf-8")
    return folder

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.samples import URLS, NewPlace


@pytest.fixture
def database_place(request: pytest.FixtureRequest) -> NewPlace:
    """Starts PostgreSQL only where a test is about it."""

    def new(scheme: str, folder: Path) -> str:
        return URLS[scheme](folder, request.getfixturevalue("database") if scheme == "postgresql" else "")

    return new

"""`aembed.testing`: what it gives to the tests of an app."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aembed import Embedder, UnavailableError
from aembed.testing import FakeProvider, fake_provider  # noqa: F401 - a fixture is found by its name here
from tests.pages import ROOT, blocks


async def test_a_model_that_the_app_names_is_the_fixture(fake_provider: FakeProvider) -> None:  # noqa: F811
    fake_provider.script = [UnavailableError("503", status_code=503)]
    async with Embedder("fake:one", dimensions=8) as one, Embedder("fake:two") as two:
        embeddings = await one.embed_documents(["a text"])
        assert (embeddings.vectors.shape, embeddings.report.retries) == ((1, 8), 1)
        assert (await two.embed_query("a question")).shape == (64,)
        assert (one.space.model, two.space.model) == ("one", "two")
    assert [sent.texts for sent in fake_provider.ledger.log] == [("a text",), ("a text",), ("a question",)]
    assert fake_provider.ledger.texts == 2


async def test_it_stands_in_no_longer_than_it_is_to() -> None:
    with FakeProvider().standing_in() as outer:
        with FakeProvider().standing_in() as inner:
            async with Embedder("fake:x") as embedder:
                await embedder.embed_query("a")
        async with Embedder("fake:x") as embedder:
            await embedder.embed_query("b")
    async with Embedder("fake:x") as embedder:
        await embedder.embed_query("c")
    assert (inner.ledger.texts, outer.ledger.texts) == (1, 1)


APP = """

import asyncio

import pytest

import aembed


@pytest.fixture
def app():
    class App:
        def publish(self, text):
            asyncio.run(aembed.embed_query(text, model="fake:deep-inside"))

    return App()
"""


OTHER = """
import sys

there = "aembed" in sys.modules


def test_nothing_of_aembed_is_loaded():
    assert not there
"""


def test_a_project_of_a_users_imports_it_and_no_plugin_is_loaded_unasked(tmp_path: Path) -> None:
    [block] = blocks("python", "fixture")
    (tmp_path / "test_1_other.py").write_text(OTHER)
    (tmp_path / "test_2_app.py").write_text(block.code + APP)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("name", ["FakeProvider", "Fault", "Ledger", "Script", "Sent", "fake_provider"])
def test_what_it_gives_is_named(name: str) -> None:
    import aembed.testing

    assert name in aembed.testing.__all__
    assert hasattr(aembed.testing, name)

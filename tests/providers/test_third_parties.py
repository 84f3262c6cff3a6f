"""Providers that other packages bring: one that is installed is used as those of aembed are."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import numpy as np
import pytest

from tests.pages import blocks
from tests.providers.services._acme import Acme
from tests.providers.services._scripted import KEY, running
from tests.providers.test_conformance import mixed_texts

PROGRAM = """
import asyncio, json, sys
from aembed import Embedder, open_provider
async def main(url, texts):
    provider = open_provider("acme:some-model", base_url=url, headers={"x-team": "search"})
    async with Embedder(provider) as embedder:
        found = await embedder.embed_documents(texts)
        query = await embedder.embed_query("what?")
        print(json.dumps([str(embedder.space), found.vectors.tolist(), query.tolist(), found.report.billed_tokens]))
asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
"""


def install(folder: Path, code: str) -> None:
    """As pip leaves it behind."""
    information = folder / "aembed_acme-1.0.dist-info"
    information.mkdir()
    (folder / "aembed_acme.py").write_text(code, encoding="utf-8")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: aembed-acme\nVersion: 1.0\n", encoding="utf-8")
    (information / "entry_points.txt").write_text("[aembed.providers]\nacme = aembed_acme:Acme\n", encoding="utf-8")


async def run(folder: Path, *arguments: str, stdin: str = "") -> tuple[int | None, str, str]:
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", *arguments),
        env={**os.environ, "PYTHONPATH": paths, "ACME_API_KEY": KEY},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, errors = await process.communicate(stdin.encode())
    return process.returncode, out.decode(), errors.decode()


async def test_the_provider_of_the_page_is_installed_and_used(tmp_path: Path) -> None:
    (block,) = blocks("python", "package", "contributing.md")
    assert len([line for line in block.code.splitlines() if line]) <= 30
    install(tmp_path, block.code)
    texts = mixed_texts(120)
    async with running(Acme) as service:
        code, out, errors = await run(tmp_path, "-c", PROGRAM, service.url, stdin=json.dumps(texts))
        assert code == 0, errors
        space, vectors, query, billed = json.loads(out)
        assert space == f"acme:some-model, 32 dimensions at {service.url}"
        assert np.allclose(vectors, service.right(texts, "document"), atol=1e-6)
        assert np.allclose(query, service.right(["what?"], "query")[0], atol=1e-6)
        assert billed <= service.ledger.billed_tokens
        assert all(asked.uncut for asked in service.ledger.decoded)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("acmee:some-model", "known are acme, azure,"),
        ("acme:", "names no model; it looks like acme:MODEL"),
        ("acme:some-model", "ACME_API_KEY"),
    ],
)
async def test_what_is_wrong_with_it_is_told_as_of_any_other(asked: str, said: str, tmp_path: Path) -> None:
    (block,) = blocks("python", "package", "contributing.md")
    install(tmp_path, block.code)
    program = f"import os; del os.environ['ACME_API_KEY']; import aembed; aembed.open_provider({asked!r})"
    code, _, errors = await run(tmp_path, "-c", program)
    assert code == 1
    assert "ConfigError" in errors
    assert said in errors


async def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    install(tmp_path, "import no_such_module_at_all")
    code, _, errors = await run(tmp_path, "-c", "import aembed; aembed.open_provider('acme:some-model')")
    assert code == 1
    assert "acme: is brought by aembed_acme:Acme, which cannot be imported: No module named" in errors

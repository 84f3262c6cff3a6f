"""Doubleword: OpenAI's format; what it says of an empty text was recorded, all else is its documentation."""

from __future__ import annotations

from typing import ClassVar

from tests.providers.services._scripted import Answer, ScriptedService, openai_error


class Doubleword(ScriptedService):
    prefix = "doubleword"
    model = "Qwen/Qwen3-Embedding-8B"
    width = 4_096
    shorter: ClassVar[int | None] = 256
    max_inputs = 256
    max_tokens_per_text = 32_768
    prefixes = ("", "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:")

    def refused_text(self, position: int) -> Answer:
        return Answer(400, openai_error("Invalid request"))

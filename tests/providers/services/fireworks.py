"""Fireworks: OpenAI's format as its pages show it; the SDK has no embeddings. Documentation only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class Fireworks(ScriptedService):
    prefix = "fireworks"
    model = "nomic-ai/nomic-embed-text-v1.5"
    base_path = "/inference/v1"
    width = 768
    shorter: ClassVar[int | None] = 256
    max_inputs = 256
    prefixes = ("search_document: ", "search_query: ")
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}

    def rate_limited(self) -> Answer:
        return Answer(429, {"error": {"message": "Too many requests, please slow down", "type": "rate_limited"}})

    def no_money(self) -> Answer:
        reason = "Account acme-search is suspended, possibly due to reaching the monthly spending limit."
        return Answer(412, {"error": {"message": reason, "type": "error"}})

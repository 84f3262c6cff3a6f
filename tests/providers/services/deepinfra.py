"""DeepInfra: numbers only, 1,024 texts. Its pages, and langchain.js."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class DeepInfra(ScriptedService):
    prefix = "deepinfra"
    model = "BAAI/bge-m3"
    base_path = "/v1/openai"
    max_inputs = 1_024
    max_tokens = 10_000_000
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}
    floats_only_limit = 256

    def too_many_inputs(self, count: int) -> Answer:
        detail = {"type": "too_long", "loc": ["body", "input"], "msg": "List should have at most 1024 items"}
        return Answer(422, {"detail": [detail]})

    def too_long(self, position: int, tokens: int) -> Answer:
        return Answer(400, {"detail": {"error": f"inputs must have less than {self.max_tokens_per_text} tokens."}})

    def refused_text(self, position: int) -> Answer:
        return Answer(400, {"detail": {"error": "invalid input"}})

    def rate_limited(self) -> Answer:
        return Answer(429, {"detail": {"error": "Model busy, retry later"}})

    def outage(self) -> Answer:
        return Answer(500, {"detail": {"error": "inference error"}})

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"detail": {"error": "User is not authenticated"}})

    def no_money(self) -> Answer:
        return Answer(402, {"detail": {"error": "inference prohibited, please check your billing details"}})

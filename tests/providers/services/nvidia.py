"""NVIDIA's NIM: its models want the input type, which is passage or query. Its documentation of 1.13 and 2.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class Nvidia(ScriptedService):
    prefix = "nvidia"
    model = "nvidia/nv-embedqa-e5-v5"
    max_inputs = 256
    max_tokens_per_text = 512
    input_type_field = "input_type"
    input_types: ClassVar[Mapping[str, str]] = {"passage": "document", "query": "query"}
    needs_input_type = True
    uncut_field = "truncate"
    uncut_value: ClassVar[Any] = "NONE"
    request_id_header = "nvcf-reqid"
    more_fields = frozenset({"user", "embedding_type"})

    def uncut_in(self, fields: Mapping[str, Any]) -> bool:
        return fields.get("truncate", "NONE") == "NONE"

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"Input length {tokens} exceeds maximum allowed token size {self.max_tokens_per_text}"
        return Answer(400, {"error": reason})

    def malformed(self, reason: str) -> Answer:
        return Answer(400, {"error": reason})

    def refused_text(self, position: int) -> Answer:
        return Answer(400, {"error": "Invalid input"})

    def rate_limited(self) -> Answer:
        return Answer(429, {"status": 429, "title": "Too Many Requests"})

    def outage(self) -> Answer:
        return Answer(500, {"error": "Something went wrong with the request."})

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"status": 401, "title": "Unauthorized", "detail": "Authentication failed"})

    def no_money(self) -> Answer:
        detail = "Account 'x': You have run out of credits: out of credits"
        return Answer(402, {"status": 402, "title": "Payment Required", "detail": detail})

"""Jina: `task` is the input type, 512 texts a request, an empty balance is a 403. Its documentation only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.services._scripted import Answer, ScriptedService


class Jina(ScriptedService):
    prefix = "jina"
    model = "jina-embeddings-v3"
    shorter: ClassVar[int | None] = 256
    max_inputs = 512
    max_tokens = 10_000_000
    input_type_field = "task"
    input_types: ClassVar[Mapping[str, str]] = {"retrieval.passage": "document", "retrieval.query": "query"}
    encoding_field = "embedding_type"
    uncut_field = "truncate"
    cuts = True
    more_fields = frozenset({"late_chunking", "normalized"})

    def usage(self, billed: int) -> dict[str, Any]:
        return {"total_tokens": billed, "prompt_tokens": billed}

    def malformed(self, reason: str) -> Answer:
        return Answer(422, {"detail": f"[{reason}]"})

    def too_many_inputs(self, count: int) -> Answer:
        return Answer(400, {"detail": "Each input list can contain at most 512 items"})

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"Input text exceeds maximum length of {self.max_tokens_per_text} tokens"
        return Answer(400, {"detail": f"{reason} at index {position}: {tokens}. Use truncate=true to cut it."})

    def refused_text(self, position: int) -> Answer:
        return Answer(422, {"detail": "Input could not be validated"})

    def rate_limited(self) -> Answer:
        return Answer(429, {"detail": "Rate limit exceeded: 500 requests per minute. Please try again later."})

    def outage(self) -> Answer:
        return Answer(503, {"detail": "Service temporarily unavailable"})

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"detail": "Invalid API key"})

    def no_money(self) -> Answer:
        return Answer(403, {"detail": "Insufficient account balance. Please recharge."})

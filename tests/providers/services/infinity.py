"""infinity: counts characters in `usage`, refuses by pydantic, stands without /v1. Its package 0.0.78, run for real."""

from __future__ import annotations

from typing import Any

from tests.providers.raw_server import Request
from tests.providers.services._scripted import Answer, Asked, ScriptedService


class Infinity(ScriptedService):
    prefix = "infinity"
    model = "BAAI/bge-m3"
    needs_key = False
    base_path = ""
    max_tokens = 10_000_000
    max_tokens_per_text = 8_192
    cuts = True

    def tell(self, request: Request) -> Answer:
        if request.target != "/models":
            return Answer(404, {"detail": "Not Found"})
        served = {"id": self.model, "stats": {"batch_size": 32}, "object": "model", "owned_by": "infinity"}
        return Answer(200, {"object": "list", "data": [served | {"backend": "torch", "capabilities": ["embed"]}]})

    def encode(self, asked: Asked, billed: int) -> Any:
        # Characters, where others say tokens.
        return super().encode(asked, sum(map(len, asked.texts)))

    def malformed(self, reason: str) -> Answer:
        return self._refuse("value_error", ["body"], reason)

    def unknown_model(self, model: str) -> Answer:
        reason = f"Invalid model: {model}. Available models: {self.model}."
        return Answer(400, {"error": {"message": reason, "type": None, "param": None, "code": 400}})

    def too_many_inputs(self, count: int) -> Answer:
        reason = f"List should have at most {self.max_inputs} items after validation, not {count}"
        return self._refuse("too_long", ["body", "input"], reason)

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = "String should have at most 122880 characters"
        return self._refuse("string_too_long", ["body", "input", position], reason)

    def refused_text(self, position: int) -> Answer:
        return self._refuse("value_error", ["body", "input"], "Value error, not a text")

    def rate_limited(self) -> Answer:
        reason = "model BAAI/bge-m3 is currently overloaded"
        return Answer(429, {"error": {"message": reason, "type": None, "param": None, "code": 429}})

    def outage(self) -> Answer:
        reason = "InternalServerError: CUDA error"
        return Answer(500, {"error": {"message": reason, "type": None, "param": None, "code": 500}})

    def _refuse(self, kind: str, place: list[Any], reason: str) -> Answer:
        return Answer(422, {"detail": [{"type": kind, "loc": place, "msg": reason}]})

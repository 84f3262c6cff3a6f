"""vLLM: refuses what is longer than its model, and `dimensions` for a model that is not made for it."""

from __future__ import annotations

from typing import Any

from tests.providers.raw_server import Request
from tests.providers.services._scripted import Answer, Refused, ScriptedService


def _error(status: int, message: str, kind: str = "BadRequestError") -> Answer:
    return Answer(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})


class VLLM(ScriptedService):
    prefix = "vllm"
    model = "intfloat/e5-large-v2"
    needs_key = False
    max_tokens_per_text = 700
    max_inputs = 256
    max_tokens = 10_000_000
    prefixes = ("passage: ", "query: ")
    more_fields = frozenset({"user", "truncate_prompt_tokens", "priority", "add_special_tokens"})

    def tell(self, request: Request) -> Answer:
        if request.target != "/v1/models":
            return Answer(404, {"detail": "Not Found"})
        served = {"id": self.model, "object": "model", "owned_by": "vllm", "root": self.model, "parent": None}
        return Answer(200, {"object": "list", "data": [served | {"max_model_len": self.max_tokens_per_text}]})

    def malformed(self, reason: str) -> Answer:
        return _error(400, reason)

    def unknown_model(self, model: str) -> Answer:
        return _error(404, f"The model `{model}` does not exist.", "NotFoundError")

    def dimensions_in(self, fields: Any) -> int | None:
        if fields.get("dimensions") is not None and self.shorter is None:
            reason = (
                f'Model "{self.model}" does not support matryoshka representation, changing output dimensions will '
            )
            raise Refused(_error(400, f"{reason}lead to poor results."))
        return super().dimensions_in(fields)

    def too_long(self, position: int, tokens: int) -> Answer:
        most = self.max_tokens_per_text
        reason = f"This model's maximum context length is {most} tokens. However, you requested {tokens} tokens in the"
        return _error(400, f"{reason} input for embedding generation. Please reduce the length of the input.")

    def refused_text(self, position: int) -> Answer:
        return _error(400, "The input cannot be processed.")

    def rate_limited(self) -> Answer:
        return _error(503, "The server is overloaded, please try again later.", "ServiceUnavailable")

    def outage(self) -> Answer:
        return _error(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")

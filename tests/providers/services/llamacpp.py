"""llama-server: a text above its physical batch is a 500, and no wait helps. Recorded, and run by the SDK session."""

from __future__ import annotations

from tests.providers.raw_server import Request
from tests.providers.services._scripted import Answer, ScriptedService


def _error(code: int, message: str, kind: str) -> Answer:
    return Answer(code, {"error": {"code": code, "message": message, "type": kind}})


class LlamaCpp(ScriptedService):
    prefix = "llamacpp"
    model = "nomic-embed-text-v1.5.Q8_0.gguf"
    needs_key = False
    width = 768
    max_inputs = 256
    max_tokens = 10_000_000
    max_tokens_per_text = 512
    prefixes = ("search_document: ", "search_query: ")

    def tell(self, request: Request) -> Answer:
        if request.target != "/v1/models":
            return _error(404, "File Not Found", "not_found_error")
        meta = {"n_vocab": 30_522, "n_ctx": 2_048, "n_ctx_train": 2_048, "n_embd": self.width, "n_params": 136_731_648}
        served = {"id": self.model, "aliases": [self.model], "object": "model", "owned_by": "llamacpp", "meta": meta}
        return Answer(200, {"object": "list", "data": [served]})

    def malformed(self, reason: str) -> Answer:
        return _error(400, reason, "invalid_request_error")

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"input ({tokens} tokens) is too large to process. increase the physical batch size"
        return _error(500, f"{reason} (current batch size: {self.max_tokens_per_text})", "server_error")

    def refused_text(self, position: int) -> Answer:
        return _error(400, "the input could not be tokenized", "invalid_request_error")

    def rate_limited(self) -> Answer:
        return _error(503, "Loading model", "unavailable_error")

    def outage(self) -> Answer:
        return _error(500, "llama_decode failed", "server_error")

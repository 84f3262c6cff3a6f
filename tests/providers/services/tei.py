"""text-embeddings-inference: 32 texts a request by default, cuts only where it was started so. Documentation of 1.9."""

from __future__ import annotations

from tests.providers.raw_server import Request
from tests.providers.services._scripted import WAIT, Answer, ScriptedService


class TEI(ScriptedService):
    prefix = "tei"
    model = "BAAI/bge-m3"
    needs_key = False
    max_inputs = 48
    max_tokens = 8_192
    max_tokens_per_text = 700
    request_id_header = ""

    def tell(self, request: Request) -> Answer:
        if request.target != "/info":
            return Answer(404, {})
        return Answer(
            200,
            {
                "model_id": self.model,
                "model_dtype": "float16",
                "model_type": {"embedding": {"pooling": "cls"}},
                "max_concurrent_requests": 512,
                "max_input_length": self.max_tokens_per_text,
                "max_batch_tokens": self.max_tokens,
                "max_client_batch_size": self.max_inputs,
                "auto_truncate": False,
                "tokenization_workers": 4,
                "version": "1.9.0",
            },
        )

    def too_many_inputs(self, count: int) -> Answer:
        return self._error(422, f"batch size {count} > maximum allowed batch size {self.max_inputs}", "Validation")

    def too_long(self, position: int, tokens: int) -> Answer:
        reason = f"`inputs` must have less than {self.max_tokens_per_text} tokens. Given: {tokens}"
        return self._error(413, reason, "Validation")

    def rate_limited(self) -> Answer:
        answer = self._error(429, "Model is overloaded", "Overloaded")
        return Answer(429, answer.body, {"retry-after": f"{WAIT}"})

    def outage(self) -> Answer:
        return self._error(424, "Inference failed", "Backend")

    def _error(self, status: int, message: str, kind: str) -> Answer:
        return Answer(status, {"message": message, "code": status, "type": kind})

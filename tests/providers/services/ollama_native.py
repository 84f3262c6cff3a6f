"""Ollama's own /api/embed beside its route in OpenAI's format, whose vectors are the same. Its words are recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.raw_server import Request
from tests.providers.services._scripted import Answer, Asked, Refused, ScriptedService

FIELDS = {"model", "input", "truncate", "dimensions", "keep_alive", "options"}


class OllamaNative(ScriptedService):
    prefix = "ollama"
    model = "nomic-embed-text"
    base_path = ""
    endpoint = "/api/embed"
    needs_key = False
    width = 768
    shorter = 256
    max_tokens = 10**9
    max_tokens_per_text = 2_048
    prefixes = ("search_document: ", "search_query: ")
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}
    floats_only_limit = 256
    max_inputs = 10**6
    cuts = True
    uncut_field = "truncate"
    has_index = False
    parameters: ClassVar[str] = "num_ctx                        8192"
    told: ClassVar[int | None] = None
    """The context that it tells, where that is not what it takes."""
    _native = True

    def is_embedding(self, request: Request) -> bool:
        self._native = request.target == self.endpoint
        return self._native or request.target == "/v1/embeddings"

    def tell(self, request: Request) -> Answer:
        if request.target != "/api/show" or json.loads(request.body)["model"] != self.model:
            return Answer(404, {"error": "not found"})
        info = {
            "nomic-bert.context_length": self.told or self.max_tokens_per_text,
            "nomic-bert.embedding_length": self.width,
        }
        return Answer(
            200, {"model_info": {"general.architecture": "nomic-bert", **info}, "parameters": self.parameters}
        )

    def decode(self, request: Request) -> Asked:
        if not self._native:
            asked = json.loads(request.body)
            return Asked(asked["input"], dimensions=asked.get("dimensions"), uncut=False)
        fields = {name: value for name, value in json.loads(request.body).items() if value is not None}
        if unknown := fields.keys() - FIELDS:
            raise Refused(self.malformed(f"json: unknown field {min(unknown)!r}"))
        if fields["model"].removesuffix(":latest") != self.model:
            raise Refused(self.unknown_model(fields["model"]))
        texts = [fields["input"]] if isinstance(fields["input"], str) else fields["input"]
        return Asked(texts, dimensions=fields.get("dimensions"), uncut=fields.get("truncate") is False)

    def encode(self, asked: Asked, billed: int) -> Any:
        if not self._native:
            return super().encode(asked, billed)
        vectors = self.vectors(asked).tolist()
        times = {"total_duration": 14143917, "load_duration": 1019500}
        return {"model": self.model, "embeddings": vectors, **times, "prompt_eval_count": billed}

    def malformed(self, reason: str) -> Answer:
        return Answer(400, {"error": reason})

    def unknown_model(self, model: str) -> Answer:
        return Answer(404, {"error": f'model "{model}" not found, try pulling it first'})

    def too_long(self, position: int, tokens: int) -> Answer:
        return self.malformed("the input length exceeds the context length")

    def too_many_inputs(self, count: int) -> Answer:
        return self.malformed(f"batch size must be at most {self.max_inputs}")

    def refused_text(self, position: int) -> Answer:
        return self.malformed("invalid input")

    def rate_limited(self) -> Answer:
        return Answer(503, {"error": "server busy, please try again.  maximum pending requests exceeded"})

    def outage(self) -> Answer:
        return Answer(500, {"error": "llama runner process has terminated: exit status 2"})

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"error": "unauthorized"})

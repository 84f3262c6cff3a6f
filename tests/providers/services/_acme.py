"""The service that docs/contributing.md makes up, for the provider that it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.raw_server import Request
from tests.providers.services._scripted import Answer, Asked, Refused, ScriptedService


class Acme(ScriptedService):
    prefix = "acme"
    model = "some-model"
    base_path = "/v2"
    endpoint = "/vectors"
    width = 32
    max_inputs = 50
    max_tokens = 20_000
    max_tokens_per_text = 2_000
    input_types: ClassVar[Mapping[str, str]] = {"index": "document", "ask": "query"}
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float"}
    has_index = False

    def decode(self, request: Request) -> Asked:
        fields = json.loads(request.body)
        if fields.keys() != {"model", "texts", "use", "cut"}:
            raise Refused(self.malformed(f"fields: {sorted(fields)}"))
        return Asked(fields["texts"], self.input_types[fields["use"]], uncut=fields["cut"] is False)

    def encode(self, asked: Asked, billed: int) -> Any:
        return {"embeddings": self.vectors(asked).tolist(), "billed": billed}

    def malformed(self, reason: str) -> Answer:
        return Answer(400, {"message": reason})

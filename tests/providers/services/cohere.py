"""Cohere's /v2/embed: its replies and refusals are those that were recorded, at embedding and at chat calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.providers.raw_server import Request
from tests.providers.services._scripted import Answer, Asked, Refused, ScriptedService

FIELDS = {"model", "input_type", "texts", "embedding_types", "output_dimension", "truncate", "max_tokens", "priority"}


class Cohere(ScriptedService):
    prefix = "cohere"
    model = "embed-v4.0"
    base_path = "/v2"
    endpoint = "/embed"
    request_id_header = "x-debug-trace-id"
    width = 1_536
    shorter = 256
    max_inputs = 96
    max_tokens = 10**9
    max_tokens_per_text = 128_000
    input_types: ClassVar[Mapping[str, str]] = {"search_document": "document", "search_query": "query"}
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}
    has_index = False
    cuts = True
    uncut_field = "truncate"

    def decode(self, request: Request) -> Asked:
        fields = {name: value for name, value in json.loads(request.body).items() if value is not None}
        if unknown := fields.keys() - FIELDS:
            raise Refused(self.malformed(f"unknown field: parameter {min(unknown)!r} is not a valid field"))
        if fields.get("model") != self.model:
            raise Refused(self.unknown_model(str(fields.get("model"))))
        if fields.get("input_type") not in self.input_types:
            raise Refused(self.malformed("input_type parameter is required for this model: search_document, ..."))
        if fields.get("embedding_types", ["float"]) != ["float"]:
            raise Refused(self.malformed("this server of the tests has floats only"))
        width = fields.get("output_dimension")
        if width not in (None, 256, 512, 1_024, self.width) or (width and not self.shorter):
            raise Refused(self.malformed(f"output_dimension {width} is not supported by this model"))
        return Asked(
            fields["texts"],
            self.input_types[fields["input_type"]],
            width,
            uncut=fields.get("truncate", "END") == "NONE",
        )

    def encode(self, asked: Asked, billed: int) -> Any:
        # v3 models give texts back in lower case and with other blanks.
        echoed = [" ".join(re.findall(r"\w+|\W", text.lower())) for text in asked.texts]
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": billed, "image_tokens": 0}}
        vectors = {"float": self.vectors(asked).tolist()}
        return {**_id(), "texts": echoed, "embeddings": vectors, "meta": meta, "response_type": "embeddings_by_type"}

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {"num_tokens": str(billed), "x-endpoint-monthly-call-limit": "1000"}

    def malformed(self, reason: str) -> Answer:
        return Answer(400, {**_id(), "message": f"invalid request: {reason}"})

    def unknown_model(self, model: str) -> Answer:
        reason = f"model '{model}' not found, make sure the correct model ID was used and that you have access to it."
        return Answer(404, {**_id(), "message": reason})

    def too_many_inputs(self, count: int) -> Answer:
        return self.malformed(f"total number of texts must be at most {self.max_inputs} - received {count}")

    def too_long(self, position: int, tokens: int) -> Answer:
        most = self.max_tokens_per_text
        reason = f"too many tokens: size limit exceeded by {tokens - most} tokens. Try using shorter or fewer inputs. "
        limit = f"The limit for this model is {most} tokens."
        return Answer(400, {"error_type": "TOO_MANY_TOKENS", **_id(), "message": f"{reason}{limit}"})

    def refused_text(self, position: int) -> Answer:
        return self.malformed("the texts could not be processed")

    def rate_limited(self) -> Answer:
        return Answer(429, {"message": "trial token rate limit exceeded, limit is 100000 tokens per minute"})

    def outage(self) -> Answer:
        return Answer(500, {"message": "internal server error, this has been reported to our developers. id 2bb11a42"})

    def wrong_key(self, key: str) -> Answer:
        reason = (
            f"Incorrect API key provided: {key}. You can find your API key at https://dashboard.cohere.com/api-keys."
        )
        return Answer(401, {**_id(), "message": reason})

    def no_money(self) -> Answer:
        reason = "You are using a Trial key, which is limited to 1000 API calls / month. You can continue to use the "
        return Answer(429, {"message": f"{reason}Trial key for free or upgrade to a Production key."})


def _id() -> dict[str, str]:
    return {"id": "cbb11a42-f726-1aee-ab62-720d51e23c5f"}


class CohereV3(Cohere):
    model = "embed-english-v3.0"
    width = 1_024
    shorter: ClassVar[int | None] = None
    max_tokens_per_text = 512

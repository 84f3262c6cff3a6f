"""The Gemini API's batchEmbedContents: its replies and refusals are those that were recorded.

What gemini-embedding-001 does with more than 2,048 tokens is told nowhere: here it does the worse, and cuts. Strings
that are parts of one item become one vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from aembed.types import Matrix
from tests.providers.raw_server import Request
from tests.providers.services._scripted import WAIT, Answer, Asked, Refused, ScriptedService

MOST_BYTES = 4_194_304
ITEM = {"model", "content", "taskType", "title", "outputDimensionality", "output_dimensionality"}
QUOTA = "generativelanguage.googleapis.com/embed_content_paid_tier_requests"


class Gemini(ScriptedService):
    prefix = "gemini"
    model = "gemini-embedding-001"
    base_path = "/v1beta"
    key_header = "x-goog-api-key"
    width = 3_072
    shorter = 768
    max_inputs = 100
    max_tokens = 10**9
    max_tokens_per_text = 2_048
    input_types: ClassVar[Mapping[str, str]] = {"RETRIEVAL_DOCUMENT": "document", "RETRIEVAL_QUERY": "query"}
    encodings: ClassVar[Mapping[str | None, str]] = {None: "float", "float": "float"}
    has_index = has_usage = False
    cuts = True

    def is_embedding(self, request: Request) -> bool:
        return request.target.endswith(":batchEmbedContents")

    def decode(self, request: Request) -> Asked:
        # google-genai asks at /v1, and its older releases at /v1beta.
        version, _, model = request.target.removesuffix(":batchEmbedContents").rpartition("/models/")
        if version not in ("/v1", "/v1beta") or model != self.model:
            raise Refused(self.unknown_model(model))
        if len(request.body) > MOST_BYTES:
            raise Refused(self.malformed(f"Request payload size exceeds the limit: {MOST_BYTES} bytes."))
        items = json.loads(request.body)["requests"]
        for item in items:
            if unknown := item.keys() - ITEM:
                raise Refused(self.malformed(f'Invalid JSON payload received. Unknown name "{min(unknown)}"'))
            if item["model"] != f"models/{self.model}":
                raise Refused(self.malformed("BatchEmbedContentsRequest.requests: model must match"))
        types = {item.get("taskType") for item in items}
        widths = {item.get("outputDimensionality", item.get("output_dimensionality")) for item in items}
        if len(types) != 1 or len(widths) != 1:
            raise Refused(self.malformed("this server of the tests wants one type and one width"))
        texts = ["".join(part["text"] for part in item["content"]["parts"]) for item in items]
        return Asked(texts, self.input_types.get(types.pop() or "", ""), widths.pop())

    def encode(self, asked: Asked, billed: int) -> Any:
        usage = {
            "promptTokenCount": billed,
            "promptTokenDetails": [{"modality": "TEXT", "tokenCount": billed}],
        }
        values = {"embeddings": [{"values": row} for row in self.vectors(asked).tolist()]}
        return {**values, "usageMetadata": usage} if self.has_usage else values

    def vectors(self, asked: Asked) -> Matrix:
        """Shortened ones are 0.58 long, as recorded at 768 dimensions."""
        found = super().vectors(asked)
        shortened = asked.dimensions not in (None, self.width) and not self.has_usage
        return np.multiply(found, 0.58, dtype=np.float32) if shortened else found

    def malformed(self, reason: str) -> Answer:
        return _error(400, reason, "INVALID_ARGUMENT")

    def unknown_model(self, model: str) -> Answer:
        reason = f"models/{model} is not found for API version v1beta, or is not supported for embedContent. Call "
        return _error(404, f"{reason}ListModels to see the list of available models.", "NOT_FOUND")

    def too_many_inputs(self, count: int) -> Answer:
        return self.malformed("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch")

    def too_long(self, position: int, tokens: int) -> Answer:
        most = self.max_tokens_per_text
        return self.malformed(
            f"The input token count ({tokens}) exceeds the maximum number of tokens allowed ({most})."
        )

    def refused_text(self, position: int) -> Answer:
        return self.malformed("Request contains an invalid argument.")

    def rate_limited(self, quota: str = "EmbedContentPaidTierRequestsPerMinutePerProjectPerModel") -> Answer:
        reason = (
            "You exceeded your current quota, please check your plan and billing details. For more information on this "
            "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. \n* Quota exceeded for metric: "
            f"{QUOTA}, limit: 3000, model: {self.model}\nPlease retry in {WAIT}s."
        )
        violation = {"quotaMetric": QUOTA, "quotaId": quota, "quotaValue": "3000"}
        details = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{WAIT}s"},
        ]
        return _error(429, reason, "RESOURCE_EXHAUSTED", details)

    def outage(self) -> Answer:
        return _error(503, "The model is overloaded. Please try again later.", "UNAVAILABLE")

    def wrong_key(self, key: str) -> Answer:
        reason = "API key not valid. Please pass a valid API key."
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        return _error(400, reason, "INVALID_ARGUMENT", [{**info, "domain": "googleapis.com"}])

    def no_money(self) -> Answer:
        """A quota of a day: its retryDelay is that of the minute."""
        return self.rate_limited("EmbedContentRequestsPerDayPerProjectPerModel-FreeTier")


class Gemini2(Gemini):
    model = "gemini-embedding-2"
    max_tokens_per_text = 8_192
    input_types: ClassVar[Mapping[str, str]] = {}
    prefixes = ("title: none | text: ", "task: search result | query: ")
    has_usage = True


def _error(code: int, message: str, status: str, details: list[Any] | None = None) -> Answer:
    more = {"details": details} if details else {}
    return Answer(code, {"error": {"code": code, "message": message, "status": status, **more}})

"""Azure OpenAI: `api-key`, its own gateway's words, `retry-after` and `retry-after-ms` that contradict each other.

Recorded: 401 with code "401", 429 of a chat call with `Retry-After: 1` and `Retry-After-Ms: 0`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tests.providers.raw_server import Request
from tests.providers.services._scripted import WAIT, Answer, Asked, ScriptedService, openai_error

_DENIED = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)


class Azure(ScriptedService):
    prefix = "azure"
    model = "text-embedding-3-small"
    width = 1_536
    shorter: ClassVar[int | None] = 256
    base_path = "/openai/v1"
    key_header = "api-key"
    request_id_header = "apim-request-id"

    def headers_of_success(self, billed: int) -> Mapping[str, str]:
        return {"x-ratelimit-remaining-requests": "119", "x-ratelimit-remaining-tokens": "119991"}

    def wrong_key(self, key: str) -> Answer:
        return Answer(401, {"error": {"code": "401", "message": _DENIED}})

    def rate_limited(self) -> Answer:
        reason = f"Your requests to {self.model} for {self.model} in westeurope have exceeded rate limit."
        body = {"error": {"code": "RateLimitReached", "message": reason, "details": reason}}
        return Answer(429, body, {"retry-after": f"{WAIT}", "retry-after-ms": "0"})

    def refused_text(self, position: int) -> Answer:
        reason = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
        return Answer(400, openai_error(reason, param="prompt", code="content_filter"))

    def outage(self) -> Answer:
        return Answer(
            503, {"error": {"code": "InternalServerError", "message": "Backend returned unexpected response."}}
        )


class AzureDated(Azure):
    """The older API: the deployment stands in the path, the date in the query."""

    options: ClassVar[Mapping[str, Any]] = {"deployment": "search-3-small", "api_version": "2024-10-21"}
    base_path = ""

    def is_embedding(self, request: Request) -> bool:
        return request.target == "/openai/deployments/search-3-small/embeddings?api-version=2024-10-21"

    def decode(self, request: Request) -> Asked:
        # The deployment in the path decides; what the body calls the model is not looked at.
        return super().decode(
            replace(request, body=json.dumps(json.loads(request.body) | {"model": self.model}).encode())
        )

"""The error that a refusal is raised as: its class (_verdicts.py), what it tells of limits, nothing that is secret."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from aembed.core.headers import parse_hints
from aembed.errors import BadRequestError, ProviderError, QuotaExceededError, RateLimitError
from aembed.providers._complaints import REASON_CHARACTERS, Complaint, read_complaint
from aembed.providers._echoes import without_echoes
from aembed.providers._http import MOST_ERROR_BYTES, HTTPReply
from aembed.providers._limits import find_lasting_limit, size_in
from aembed.providers._secrets import Secret
from aembed.providers._verdicts import class_in_a_200, class_of_error
from aembed.providers._words import ABOUT_LENGTH, TOO_LONG_KINDS
from aembed.types import Hints

_NAMES: Mapping[int, str] = {
    401: "the key was refused",
    403: "the key may not do that",
    404: "no such model or endpoint",
    407: "a proxy wants a user name and a password",
    501: "the server cannot do that",
    505: "the server does not speak HTTP/1.1",
}
_REQUEST_IDS = (
    "x-request-id",
    "request-id",
    "apim-request-id",  # Azure
    "mistral-correlation-id",
    "x-debug-trace-id",  # Cohere
    "x-amzn-requestid",  # Bedrock
    "nvcf-reqid",  # NVIDIA
    "x-siliconcloud-trace-id",
    "x-generation-id",  # OpenRouter
    "x-kong-request-id",
    "x-correlation-id",
    "cf-ray",  # of Cloudflare, before many services
)
# What a forward proxy says by itself: that it does not allow a host, or does not reach it.
_A_PROXYS_TOO = frozenset({403, 502, 503, 504})


def error_for(
    reply: HTTPReply,
    *,
    inputs: int,
    tokens: float = 1.0,
    secrets: Sequence[Secret] = (),
    hints: Hints | None = None,
    error: type[ProviderError] | None = None,
) -> ProviderError:
    """The error that a status other than 2xx means, for a request of so many inputs, and tokens as we count them.

    `hints` stand in the place of what the headers say, and `error` in the place of what status and body mean.
    """
    complaint = read_complaint(reply.body)
    error = error or class_of_error(reply.status, complaint)
    reason = complaint.reason or _NAMES.get(reply.status, error.__name__)
    if 300 <= reply.status < 400:
        # Without a query and a password: they may be secrets.
        location = reply.headers.get("location", "nowhere").partition("?")[0]
        location = re.sub(r"//[^/@]*@", "//", location)[:200]
        reason = f"redirects are not followed; set base_url to where it points: {location}"
    by_way = f" (by way of {reply.via})" if reply.via and reply.status in _A_PROXYS_TOO else ""
    refused = _Refused(reply, complaint, inputs, tokens, secrets, hints)
    return refused.build_error(error, f"{reply.status}: ", f"{reason}{by_way}")


def error_in(
    reply: HTTPReply, *, inputs: int, tokens: float = 1.0, secrets: Sequence[Secret] = ()
) -> ProviderError | None:
    """The error that a 200 reply holds instead of vectors; None where it holds none."""
    complaint = read_complaint(reply.body) if len(reply.body) <= MOST_ERROR_BYTES else Complaint()
    if not complaint.reason or not complaint.structured:
        return None
    refused = _Refused(reply, complaint, inputs, tokens, secrets)
    return refused.build_error(class_in_a_200(complaint), "the reply is an error: ", complaint.reason)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A reply that is an error, and the request that it answers."""

    reply: HTTPReply
    complaint: Complaint
    inputs: int
    tokens: float
    secrets: Sequence[Secret]
    hints: Hints | None = None

    def build_error(self, error: type[ProviderError], opening: str, reason: str) -> ProviderError:
        hints = self.hints or parse_hints(self.reply.headers, self.complaint.reason, self.complaint.delay)
        if error is RateLimitError:
            limit = find_lasting_limit(self.reply.headers, self.complaint, hints, tokens=self.tokens, texts=self.inputs)
            if limit is not None:
                error, reason = QuotaExceededError, f"{limit.reason}: {reason}"
                if limit.spent:
                    hints = replace(hints, spent_window=limit.spent.name, reset_spent=limit.spent.reset)
        built = error(
            redacted_line(f"{opening}{reason}", self.secrets)[:REASON_CHARACTERS],
            status_code=self.reply.status,
            request_id=request_id(self.reply, self.secrets),
            hints=hints,
            # Echoes are cut out before the body is shortened: half of a text would not be known for one.
            body=redacted_line(without_echoes(self.reply.body)[:4096].decode("utf-8", "replace"), self.secrets),
        )
        if isinstance(built, BadRequestError):
            size = size_in(self.complaint.reason)
            built.offender = self.complaint.offender if self.complaint.offender in range(self.inputs) else None
            said = ABOUT_LENGTH.search(self.complaint.reason) is not None
            built.about_length = said or self.complaint.is_of(*TOO_LONG_KINDS)
            built.max_batch_size, built.max_tokens_per_batch = size.inputs, size.tokens
            built.max_tokens, built.requested_tokens = size.context, size.requested
        return built


def with_origin(
    error: ProviderError, reply: HTTPReply, secrets: Sequence[Secret] = (), hints: Hints | None = None
) -> ProviderError:
    """That error, saying which reply it is about."""
    error.status_code = reply.status
    error.request_id = request_id(reply, secrets)
    error.hints = hints or parse_hints(reply.headers)
    error.body = redacted_line(without_echoes(reply.body[:4096])[:200].decode("utf-8", "replace"), secrets)
    return error


def request_id(reply: HTTPReply, secrets: Sequence[Secret] = ()) -> str | None:
    """What to quote to the provider's support."""
    named = next(filter(None, map(reply.headers.get, _REQUEST_IDS)), None)
    return redacted_line(named, secrets)[:100] if named else None


def redacted_line(text: str, secrets: Sequence[Secret]) -> str:
    """One line, printable, without what is secret."""
    for secret in secrets:
        text = secret.redact(text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())

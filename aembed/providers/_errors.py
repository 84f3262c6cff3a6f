"""What a refusal means: status and body become the error class that is its verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from aembed.core.headers import parse_hints
from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    UnavailableError,
)
from aembed.providers._complaints import REASON_CHARACTERS, Complaint, read_complaint
from aembed.providers._echoes import without_echoes
from aembed.providers._http import MOST_ERROR_BYTES, HTTPReply
from aembed.providers._limits import is_too_large, lasting, size_in
from aembed.providers._secrets import Secret

_BAD_KEY = re.compile(
    r"\b(?:invalid|incorrect|malformed|missing|expired)[^.]{0,20}\bapi[ _-]?key|"
    r"\bapi[ _-]?key[^.]{0,20}\b(?:invalid|incorrect|not valid|expired|missing|required)",
    re.IGNORECASE,
)
_BAD_SETTING = re.compile(
    r"\bmodel\b.{0,100}\b(?:not found|does ?n[o']t exist|not supported|not available)|"
    r"\b(?:invalid|unknown|unsupported|no such) model\b|"
    r"not support[^.]{0,40}\bdimensions?\b|\bdimensions?\b[^.]{0,60}not (?:supported|permitted|allowed)|"
    r"\b(?:unrecognized|unknown|unsupported)[^.]{0,20}\b(?:argument|parameter|field)|"
    r"\bextra (?:inputs|fields) (?:are )?not permitted",
    re.IGNORECASE | re.DOTALL,
)
_NOT_IN_CLEAR = re.compile(
    r"\bhttp request (?:was sent )?to (?:an? )?https\b|\brequires tls\b|\bplain http to an ssl", re.IGNORECASE
)
_CERTIFICATE_WANTED = re.compile(r"\bno required (?:ssl|client) certificate", re.IGNORECASE)
_SETTINGS = frozenset({"model", "dimensions", "encoding_format", "user"})
_NAMES: Mapping[int, str] = {
    401: "the key was refused",
    403: "the key may not do that",
    404: "no such model or endpoint",
    407: "a proxy wants a user name and a password",
    501: "the server cannot do that",
    505: "the server does not speak HTTP/1.1",
}
_A_PROXYS_TOO = frozenset({403, 502, 503, 504})
_IN_A_200 = {
    RateLimitError: ("rate_limit", "rate_limited", "too_many_requests", "resource_exhausted", "overloaded"),
    AuthenticationError: ("invalid_api_key", "authentication", "unauthorized", "unauthenticated"),
    PermissionDeniedError: ("permission", "forbidden"),
    NotFoundError: ("model_not_found", "not_found"),
    UnavailableError: ("server_error", "internal", "unavailable", "unhealthy", "backend", "timeout"),
    BadRequestError: ("invalid_request", "max_tokens_per_request", "validation", "bad_request"),
}


def error_for(reply: HTTPReply, *, inputs: int, tokens: float = 1.0, key: Secret | None = None) -> ProviderError:
    """The error that a status other than 2xx means, for a request of so many inputs, and tokens as we count them."""
    complaint = read_complaint(reply.body)
    error = _class(reply.status, complaint)
    reason = complaint.reason or _NAMES.get(reply.status, error.__name__)
    if 300 <= reply.status < 400:
        reason = f"redirects are not followed; set base_url to where it points: {_location(reply)}"
    by_way = f" (by way of {reply.via})" if reply.via and reply.status in _A_PROXYS_TOO else ""
    refused = _Refused(reply, complaint, inputs, tokens, key)
    return refused.built(error, f"{reply.status}: ", f"{reason}{by_way}")


def error_in(reply: HTTPReply, *, inputs: int, tokens: float = 1.0, key: Secret | None = None) -> ProviderError | None:
    """The error that a 200 reply holds instead of vectors; None where it holds none."""
    complaint = read_complaint(reply.body) if len(reply.body) <= MOST_ERROR_BYTES else Complaint()
    if not complaint.reason or not complaint.structured:
        return None
    refused = _Refused(reply, complaint, inputs, tokens, key)
    return refused.built(_class_in_a_200(complaint), "the reply is an error: ", complaint.reason)


def _class(status: int, complaint: Complaint) -> type[ProviderError]:
    match status:
        case 401:
            return AuthenticationError
        case 402:
            return QuotaExceededError
        case 403:
            return QuotaExceededError if complaint.no_money else PermissionDeniedError
        case 429:
            return _limited(complaint)
        case 408 | 409 | 425:
            return UnavailableError
        case 404 | 405 | 410 | 501 | 505:
            return NotFoundError
        case 407:
            return AuthenticationError
        case _ if 400 <= status < 500:
            return _refusal(complaint)
        case _ if 300 <= status < 400:
            return NotFoundError
        case _:
            return UnavailableError


def _limited(complaint: Complaint) -> type[ProviderError]:
    """A request that is larger than the limit itself is refused for what it holds: no wait helps, less of it does."""
    if complaint.no_money:
        return QuotaExceededError
    return BadRequestError if is_too_large(complaint.reason) else RateLimitError


def _refusal(complaint: Complaint) -> type[ProviderError]:
    """Told apart: what no other batch would cure, and what may lie in this batch."""
    if complaint.no_money:
        return QuotaExceededError
    if complaint.is_of("invalid_api_key", "authentication"):
        return AuthenticationError
    if complaint.is_of("model_not_found", "invalid_model", "unsupported_parameter", "unknown_parameter"):
        return NotFoundError
    if complaint.param in _SETTINGS:
        return NotFoundError
    # A reason that long, or about the input, may quote a text: its words prove nothing.
    if complaint.param.startswith("input") or len(complaint.reason) > REASON_CHARACTERS:
        return BadRequestError
    if _BAD_KEY.search(complaint.reason) or _CERTIFICATE_WANTED.search(complaint.reason):
        return AuthenticationError
    if _NOT_IN_CLEAR.search(complaint.reason):
        return NotFoundError
    return NotFoundError if _BAD_SETTING.search(complaint.reason) else BadRequestError


def _class_in_a_200(complaint: Complaint) -> type[ProviderError]:
    status = next((code for code in complaint.codes if 400 <= code < 600), None)
    if status is not None:
        return _class(status, complaint)
    if complaint.no_money:
        return QuotaExceededError
    for error, words in _IN_A_200.items():
        if complaint.is_of(*words):
            return _refusal(complaint) if error is BadRequestError else error
    return InvalidReplyError


@dataclass(frozen=True, slots=True)
class _Refused:
    """A reply that is an error, and the request that it answers."""

    reply: HTTPReply
    complaint: Complaint
    inputs: int
    tokens: float
    key: Secret | None

    def built(self, error: type[ProviderError], opening: str, reason: str) -> ProviderError:
        hints = parse_hints(self.reply.headers, self.complaint.reason, self.complaint.delay)
        if error is RateLimitError:
            limit = lasting(self.reply.headers, self.complaint, hints, tokens=self.tokens, texts=self.inputs)
            if limit is not None:
                error, reason = QuotaExceededError, f"{limit.reason}: {reason}"
                if limit.spent:
                    hints = replace(hints, spent_window=limit.spent.name, reset_spent=limit.spent.reset)
        built = error(
            _shown(f"{opening}{reason}", self.key)[:REASON_CHARACTERS],
            status_code=self.reply.status,
            request_id=request_id(self.reply, self.key),
            hints=hints,
            body=_shown(without_echoes(self.reply.body)[:4096].decode("utf-8", "replace"), self.key),
        )
        if isinstance(built, BadRequestError):
            self._name_limits(built)
        return built

    def _name_limits(self, error: BadRequestError) -> None:
        size = size_in(self.complaint.reason)
        error.offender = self.complaint.offender if self.complaint.offender in range(self.inputs) else None
        error.max_batch_size = size.inputs
        error.max_tokens_per_batch = size.tokens
        error.max_tokens = size.context
        error.requested_tokens = size.requested


def with_origin(error: ProviderError, reply: HTTPReply, key: Secret | None = None) -> ProviderError:
    """That error, saying which reply it is about."""
    error.status_code = reply.status
    error.request_id = request_id(reply, key)
    error.hints = parse_hints(reply.headers)
    error.body = _shown(without_echoes(reply.body[:4096])[:200].decode("utf-8", "replace"), key)
    return error


def request_id(reply: HTTPReply, key: Secret | None = None) -> str | None:
    """What to quote to the provider's support."""
    named = reply.headers.get("x-request-id") or reply.headers.get("request-id")
    return _shown(named, key)[:100] if named else None


def _shown(text: str, key: Secret | None) -> str:
    """One line, printable, without the key."""
    line = "".join(c if c.isprintable() else " " for c in (key.redact(text) if key else text))
    return " ".join(line.split())


def _location(reply: HTTPReply) -> str:
    """Without a query and a password: they may be secrets."""
    url = reply.headers.get("location", "nowhere").partition("?")[0]
    return re.sub(r"//[^/@]*@", "//", url)[:200]

"""What a refusal means: status and body become the error class that is its verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
_MOST_INPUTS = (
    re.compile(r"batch size \d+ > maximum allowed batch size (\d{1,6})"),
    re.compile(r"(?:array|list)[^.]{0,40}(?:maximum length|at most) (\d{1,6})"),
    re.compile(r"batch size[^.]{0,60}(?:larger than|exceed|at most|limit is|maximum of) (\d{1,6})", re.IGNORECASE),
    re.compile(r"at most (\d{1,6}) (?:requests|inputs|texts|documents|items)", re.IGNORECASE),
    re.compile(r"texts must be at most (\d{1,6})"),
)
_MOST_TOKENS = (
    re.compile(r"max(?:imum)?(?: of)? (\d{1,9}) tokens per (?:request|batch)", re.IGNORECASE),
    re.compile(r"tokens in batch\. Max is (\d{1,9})"),
    re.compile(r"tokens per (?:submitted )?batch is (\d{1,9})"),
)
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


def error_for(reply: HTTPReply, *, inputs: int, key: Secret | None = None) -> ProviderError:
    """The error that a status other than 2xx means, for a request of so many inputs."""
    complaint = read_complaint(reply.body)
    error = _class(reply.status, complaint)
    reason = complaint.reason or _NAMES.get(reply.status, error.__name__)
    if 300 <= reply.status < 400:
        reason = f"redirects are not followed; set base_url to where it points: {_location(reply)}"
    by_way = f" (by way of {reply.via})" if reply.via and reply.status in _A_PROXYS_TOO else ""
    return _build(error, reply, complaint, f"{reply.status}: {reason}{by_way}", inputs, key)


def error_in(reply: HTTPReply, *, inputs: int, key: Secret | None = None) -> ProviderError | None:
    """The error that a 200 reply holds instead of vectors; None where it holds none."""
    complaint = read_complaint(reply.body) if len(reply.body) <= MOST_ERROR_BYTES else Complaint()
    if not complaint.reason or not complaint.structured:
        return None
    error = _class_in_a_200(complaint)
    return _build(error, reply, complaint, f"the reply is an error: {complaint.reason}", inputs, key)


def _class(status: int, complaint: Complaint) -> type[ProviderError]:
    match status:
        case 401:
            return AuthenticationError
        case 402:
            return QuotaExceededError
        case 403:
            return QuotaExceededError if complaint.no_money else PermissionDeniedError
        case 429:
            return QuotaExceededError if complaint.no_money else RateLimitError
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


def _build(
    error: type[ProviderError], reply: HTTPReply, complaint: Complaint, message: str, inputs: int, key: Secret | None
) -> ProviderError:
    built = error(
        _shown(message, key)[:REASON_CHARACTERS],
        status_code=reply.status,
        request_id=request_id(reply, key),
        hints=parse_hints(reply.headers, complaint.reason),
        body=_shown(without_echoes(reply.body)[:4096].decode("utf-8", "replace"), key),
    )
    if isinstance(built, BadRequestError):
        built.offender = complaint.offender if complaint.offender in range(inputs) else None
        built.max_batch_size = _first(_MOST_INPUTS, complaint.reason)
        built.max_tokens_per_batch = _first(_MOST_TOKENS, complaint.reason)
    return built


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


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        found = pattern.search(text[:2000])
        if found and int(found[1]) > 0:
            return int(found[1])
    return None

"""What a refusal means: status and body become the error class that is its verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
from aembed.providers._limits import SizeLimit, find_lasting_limit, is_too_large, size_in
from aembed.providers._secrets import Secret
from aembed.providers._words import (
    A_RATE,
    ABOUT_LENGTH,
    BAD_KEY,
    BAD_MODEL_FIRST,
    BAD_SETTING,
    CANNOT_EMBED,
    CERTIFICATE_WANTED,
    NO_MONEY,
    NO_MONEY_CODES,
    NO_MONEY_KINDS,
    NO_QUOTA,
    NOT_IN_CLEAR,
    OF_CONTENT,
    PASSING,
    TOO_LONG,
    TOO_LONG_KINDS,
    TOO_OFTEN,
    TOO_OFTEN_KINDS,
)
from aembed.types import Hints

_SETTINGS = frozenset(
    (
        "model",
        "dimensions",
        "output_dimension",
        "encoding_format",
        "embedding_type",
        "user",
        "input_type",
        "task",
        "truncate",
        "truncation",
        "header",  # pydantic, of a header that is missing
    )
)
"""What is wrong with these is wrong with every batch."""
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
_IN_A_200 = {
    AuthenticationError: ("invalid_api_key", "authentication", "unauthorized", "unauthenticated"),
    PermissionDeniedError: ("permission", "forbidden"),
    NotFoundError: ("model_not_found", "not_found"),
    UnavailableError: ("server_error", "internal", "unavailable", "unhealthy", "backend", "timeout"),
    BadRequestError: ("invalid_request", "max_tokens_per_request", "validation", "bad_request"),
}


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
    error = error or _class_of_error(reply.status, complaint)
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
    return refused.build_error(_class_in_a_200(complaint), "the reply is an error: ", complaint.reason)


def _class_of_error(status: int, complaint: Complaint) -> type[ProviderError]:
    match status:
        case 402:
            return QuotaExceededError
        case 401 | 403 if _is_out_of_money(complaint, refusal=True):
            return QuotaExceededError
        case 401:
            return AuthenticationError
        case 403 if _is_too_often(complaint):
            return RateLimitError
        case 403:
            is_of_content = (
                len(complaint.reason) <= REASON_CHARACTERS and OF_CONTENT.search(complaint.reason) is not None
            )
            return BadRequestError if is_of_content else PermissionDeniedError
        case 429:
            return _class_of_limit(complaint)
        # All ask for the same request once more; openai-python tries a 409 again as well, as a lock that timed out. 499
        # is what nginx says of a connection that broke before it, as behind another gateway.
        case 408 | 409 | 425 | 499:
            return UnavailableError
        # What stands behind the server has failed: text-embeddings-inference's backend, Bedrock's model.
        case 424:
            return _class_of_failure(complaint)
        # "Unavailable for legal reasons" is said of what a text holds.
        case 451:
            return BadRequestError
        case 404 if _is_passing(complaint):
            return UnavailableError
        case 404 | 405 | 410 | 501 | 505:
            return NotFoundError
        case 407:
            return AuthenticationError
        case _ if 400 <= status < 500:
            return _class_of_refusal(complaint)
        case _ if 300 <= status < 400:
            return NotFoundError
        case _:
            return _class_of_failure(complaint)


def _is_out_of_money(complaint: Complaint, *, refusal: bool = False) -> bool:
    """`refusal`: the status is not one of a rate limit or a failure, so that the reason may quote a text."""
    if complaint.codes & NO_MONEY_CODES or any(map(NO_MONEY_KINDS.match, complaint.kinds)):
        return True
    if complaint.quotas or complaint.is_of("resource_exhausted") or A_RATE.search(complaint.reason):
        return False
    if not refusal:
        return NO_MONEY.search(complaint.reason) is not None
    said = complaint.own_words
    return NO_MONEY.search(said) is not None or NO_QUOTA.search(said) is not None


def _is_too_often(complaint: Complaint) -> bool:
    """Whether this is a rate limit, though its status is another one."""
    if size_in(complaint.reason) != SizeLimit():
        return False
    return complaint.is_of(*TOO_OFTEN_KINDS) or TOO_OFTEN.search(complaint.own_words) is not None


def _is_passing(complaint: Complaint) -> bool:
    return PASSING.search(complaint.own_words) is not None


def _class_of_limit(complaint: Complaint) -> type[ProviderError]:
    """A request that is larger than the limit itself is refused for what it holds: no wait helps, less of it does."""
    if _is_out_of_money(complaint):
        return QuotaExceededError
    return BadRequestError if is_too_large(complaint.reason) else RateLimitError


def _class_of_failure(complaint: Complaint) -> type[ProviderError]:
    """A status of the server's own faults, with words of another one: a long reason may quote a text."""
    if len(complaint.reason) > REASON_CHARACTERS:
        return UnavailableError
    if _is_out_of_money(complaint):
        return QuotaExceededError
    if complaint.is_of("invalid_api_key"):
        return AuthenticationError
    if CANNOT_EMBED.search(complaint.reason):
        return NotFoundError
    is_of_its_size = complaint.is_of(*TOO_LONG_KINDS) or TOO_LONG.search(complaint.reason) is not None
    is_of_its_size |= size_in(complaint.reason) != SizeLimit()
    return BadRequestError if is_of_its_size else UnavailableError


def _class_of_refusal(complaint: Complaint) -> type[ProviderError]:
    """Told apart: what no other batch would cure, and what may lie in this batch."""
    # Money comes first, since services give an empty account the status and the words of everything else.
    if _is_out_of_money(complaint, refusal=True):
        return QuotaExceededError
    if complaint.is_of("invalid_api_key", "authentication"):
        return AuthenticationError
    if complaint.is_of(
        "model_not_found", "invalid_model", "unsupported_model", "unsupported_parameter", "unknown_parameter"
    ):
        return NotFoundError
    if complaint.param in _SETTINGS:
        return NotFoundError
    if complaint.param.startswith("input"):
        return BadRequestError
    if BAD_MODEL_FIRST.match(complaint.reason):
        return NotFoundError
    # A reason that long, or about the input, may quote a text: its words prove nothing.
    if len(complaint.reason) > REASON_CHARACTERS:
        return BadRequestError
    if _is_too_often(complaint):
        return RateLimitError
    if BAD_KEY.search(complaint.own_words) or CERTIFICATE_WANTED.search(complaint.reason):
        return AuthenticationError
    if _is_passing(complaint):
        return UnavailableError
    wrong = any(words.search(complaint.reason) for words in (NOT_IN_CLEAR, CANNOT_EMBED, BAD_SETTING))
    return NotFoundError if wrong else BadRequestError


def _class_in_a_200(complaint: Complaint) -> type[ProviderError]:
    status = next((code for code in complaint.codes if 400 <= code < 600), None)
    if status is not None:
        return _class_of_error(status, complaint)
    if _is_out_of_money(complaint, refusal=True):
        return QuotaExceededError
    if complaint.is_of("resource_exhausted", "overloaded") or _is_too_often(complaint):
        return RateLimitError
    if _is_passing(complaint):
        return UnavailableError
    for error, words in _IN_A_200.items():
        if complaint.is_of(*words):
            return _class_of_refusal(complaint) if error is BadRequestError else error
    refusal = _class_of_refusal(complaint)
    is_of_its_size = size_in(complaint.reason) != SizeLimit() or TOO_LONG.search(complaint.own_words) is not None
    return refusal if refusal is not BadRequestError or is_of_its_size else InvalidReplyError


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
            self._name_limits(built)
        return built

    def _name_limits(self, error: BadRequestError) -> None:
        size = size_in(self.complaint.reason)
        error.offender = self.complaint.offender if self.complaint.offender in range(self.inputs) else None
        said = ABOUT_LENGTH.search(self.complaint.reason) is not None
        error.about_length = said or self.complaint.is_of(*TOO_LONG_KINDS)
        error.max_batch_size = size.inputs
        error.max_tokens_per_batch = size.tokens
        error.max_tokens = size.context
        error.requested_tokens = size.requested


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

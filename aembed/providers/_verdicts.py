"""What a refusal means: its status, and what its body complains of, become the error class that is its verdict."""

from __future__ import annotations

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
from aembed.providers._complaints import REASON_CHARACTERS, Complaint
from aembed.providers._limits import SizeLimit, is_too_large, size_in
from aembed.providers._words import (
    A_RATE,
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
_IN_A_200 = {
    AuthenticationError: ("invalid_api_key", "authentication", "unauthorized", "unauthenticated"),
    PermissionDeniedError: ("permission", "forbidden"),
    NotFoundError: ("model_not_found", "not_found"),
    UnavailableError: ("server_error", "internal", "unavailable", "unhealthy", "backend", "timeout"),
    BadRequestError: ("invalid_request", "max_tokens_per_request", "validation", "bad_request"),
}


def class_of_error(status: int, complaint: Complaint) -> type[ProviderError]:
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
        case 429 if _is_out_of_money(complaint):
            return QuotaExceededError
        # No wait helps a request that is larger than the limit itself; less of it does.
        case 429 if is_too_large(complaint.reason):
            return BadRequestError
        case 429:
            return RateLimitError
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


def class_in_a_200(complaint: Complaint) -> type[ProviderError]:
    status = next((code for code in complaint.codes if 400 <= code < 600), None)
    if status is not None:
        return class_of_error(status, complaint)
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

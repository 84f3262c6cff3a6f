"""OpenAI's error bodies, and scripts that refuse a request for what it contains."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tests.service.faults import Fault, Mutate, Request, Status
from tests.service.limits import Excess, duration

_INVALID = "invalid_request_error"
_SERVER = "The server had an error while processing your request. Sorry about that!"


def error(message: str, kind: str = _INVALID, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def label(status: Status) -> str:
    """How the ledger names it: `429 rate_limit_exceeded`, `500 server_error`."""
    body = usual_body(status.code) if status.body is None else status.body
    reason = body.get("error") if isinstance(body, dict) else None
    named = (reason.get("code") or reason.get("type")) if isinstance(reason, dict) else None
    return f"{status.code} {named}" if named else str(status.code)


def usual_body(code: int) -> dict[str, Any]:
    """What OpenAI sends with that status when nothing special is meant."""
    match code:
        case 401:
            return error("Incorrect API key provided: sk-****.", code="invalid_api_key")
        case 403:
            return error("You do not have access to this model.", code="model_not_allowed")
        case 404:
            return error("The model does not exist or you do not have access to it.", code="model_not_found")
        case 408:
            return error("Request timed out.", "timeout")
        case 409:
            return error("The resource was updated by another process. Please try again.", "conflict_error")
        case 413:
            return error("Request payload too large.", code="payload_too_large")
        case 429:
            return error("Rate limit reached for requests.", "requests", code="rate_limit_exceeded")
        case 503:
            return error("The engine is currently overloaded, please try again later.", "server_error")
        case _ if code >= 500:
            return error(_SERVER, "server_error")
        case _:
            return error("Your request was malformed.")


def bad_key(shown: str) -> Status:
    message = f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys."
    return Status(401, error(message, code="invalid_api_key"))


def unknown_model(model: str) -> Status:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Status(404, error(message, code="model_not_found"))


def quota_exhausted(*, with_code: bool = True) -> Status:
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
    )
    return Status(429, error(message, "insufficient_quota", code="insufficient_quota" if with_code else None))


def rate_limited(excess: Excess, model: str, *, headers: bool = True) -> Status:
    """429 with the wait in the message and, unless turned off, in `retry-after-ms` and `retry-after`."""
    short = {"requests": "RPM", "tokens": "TPM"}[excess.unit]
    what = f"for {model} in organization org-simulated on {excess.unit} per min ({short}): Limit {excess.limit:.0f}"
    more = "Visit https://platform.openai.com/account/rate-limits to learn more."
    if math.isinf(excess.wait):
        message = f"Request too large {what}, Requested {excess.requested:.0f}. The input must be reduced. {more}"
        return Status(429, error(message, excess.unit, code="rate_limit_exceeded"))
    used = f"Used {excess.used:.0f}, Requested {excess.requested:.0f}"
    message = f"Rate limit reached {what}, {used}. Please try again in {duration(excess.wait)}. {more}"
    milliseconds = math.ceil(excess.wait * 1000)
    waits = [("retry-after-ms", str(milliseconds)), ("retry-after", str(math.ceil(excess.wait)))]
    return Status(429, error(message, excess.unit, code="rate_limit_exceeded"), waits if headers else ())


def not_json() -> Status:
    return Status(400, error("We could not parse the JSON body of your request."))


def unknown_field(name: str) -> Status:
    return Status(400, error(f"Unrecognized request argument supplied: {name}"))


def invalid_field(name: str) -> Status:
    """As OpenAI answers an empty string: it does not say which."""
    message = f"'$.{name}' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
    return Status(400, error(message))


def too_many_inputs(count: int, most: int) -> Status:
    message = (
        f"Invalid 'input': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {count} instead."
    )
    return Status(400, error(message, param="input", code="array_above_max_length"))


def too_many_tokens(tokens: int, most: int) -> Status:
    message = f"Requested {tokens} tokens, max {most} tokens per request"
    return Status(400, error(message, "max_tokens_per_request", code="max_tokens_per_request"))


def input_too_long(tokens: int, most: int) -> Status:
    message = (
        f"This model's maximum context length is {most} tokens, however you requested {tokens} tokens "
        f"({tokens} in your prompt; 0 for the completion). Please reduce your prompt; or completion length."
    )
    return Status(400, error(message))


def bad_input(position: int | None) -> Status:
    """A text that the service cannot take; with a position the message names it."""
    name = "input" if position is None else f"input[{position}]"
    return Status(400, error(f"Invalid '{name}': the input could not be processed.", param="input"))


@dataclass(frozen=True, slots=True)
class Poison:
    """A request with such a text is refused. `named`: the reply says which text, as `input[22]`."""

    texts: Collection[str] | Callable[[str], bool]
    named: bool = False

    def __call__(self, request: Request) -> Fault | None:
        bad = self.texts if callable(self.texts) else self.texts.__contains__
        position = next((i for i, text in enumerate(request.texts) if bad(text)), None)
        return None if position is None else bad_input(position if self.named else None)


@dataclass(frozen=True, slots=True)
class HiddenTokenCap:
    """The service takes fewer tokens a request than it documents."""

    max_tokens: int

    def __call__(self, request: Request) -> Fault | None:
        return too_many_tokens(request.tokens, self.max_tokens) if request.tokens > self.max_tokens else None


@dataclass(frozen=True, slots=True)
class HiddenInputCap:
    """The service takes fewer inputs, and says so with 413 or 422, as text-embeddings-inference does."""

    max_inputs: int
    code: int = 422

    def __call__(self, request: Request) -> Fault | None:
        count = len(request.texts)
        if count <= self.max_inputs:
            return None
        message = f"batch size {count} > maximum allowed batch size {self.max_inputs}"
        return Status(self.code, {"message": message, "code": self.code, "type": "Validation"})


@dataclass(frozen=True, slots=True)
class Deadly:
    """A request with such a text meets that fault, every time: the server dies of it."""

    texts: Callable[[str], bool]
    fault: Fault

    def __call__(self, request: Request) -> Fault | None:
        return self.fault if any(map(self.texts, request.texts)) else None


@dataclass(frozen=True, slots=True)
class TooHeavy:
    """A request of more inputs or bytes than that meets the fault: the server has not the memory, or the time."""

    fault: Fault
    max_inputs: float = math.inf
    max_bytes: float = math.inf

    def __call__(self, request: Request) -> Fault | None:
        heavy = len(request.texts) > self.max_inputs
        return self.fault if heavy or sum(len(text.encode()) for text in request.texts) > self.max_bytes else None


@dataclass(frozen=True, slots=True)
class OneAtATime:
    """The reply to more than one input cannot be used."""

    change: Callable[[dict[str, Any]], Any]

    def __call__(self, request: Request) -> Fault | None:
        return Mutate(self.change) if len(request.texts) > 1 else None


class InMidJob:
    """Once `after` requests were answered, every request gets that fault, for so many seconds. `sent_after` counts
    those that came once the first of them was answered, `seconds_of_reply` later."""

    def __init__(
        self, fault: Fault, *, after: int = 30, seconds: float = math.inf, seconds_of_reply: float = 0.02
    ) -> None:
        self.sent_after = 0
        self._fault = fault
        self._after = after
        self._seconds = seconds
        self._seconds_of_reply = seconds_of_reply
        self._first = math.inf

    def __call__(self, request: Request) -> Fault | None:
        self._after -= 1
        if self._after >= 0:
            return None
        self._first = min(self._first, request.at)
        if request.at - self._first >= self._seconds:
            return None
        self.sent_after += request.at >= self._first + self._seconds_of_reply
        return self._fault

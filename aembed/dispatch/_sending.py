"""This module sends one request to one address: its money is reserved first, and a closed connection costs no try."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import ceil

from aembed.core.billing import billed_tokens, cost_of
from aembed.core.retrying import may_be_billed
from aembed.dispatch._admission import Admission
from aembed.dispatch._request_telling import RequestTeller
from aembed.dispatch._requests import Requests
from aembed.dispatch._submission import Submission
from aembed.errors import ProviderError
from aembed.types import Reply

WORD = "a"
"""A text that costs one token, for finding out whether anything is accepted."""
# One for a connection that was closed meanwhile, and one for a reply format that the provider does not speak.
MOST_AT_ONCE = 2
"""A request is sent again at once so many times."""


async def send_promptly(
    requests: Requests,
    submission: Submission,
    texts: Sequence[str],
    tokens: float,
    admission: Admission,
    *,
    urgent: bool,
    telling: RequestTeller | None = None,
) -> Reply:
    """The reply to one try. What is `urgent` is cut by the deadline that was learned, however much was cut before.

    Raises the ProviderError of the try, or what the budget or its store says against it.
    """
    for _ in range(MOST_AT_ONCE):
        try:
            return await _send_reserved(requests, submission, texts, tokens, admission, urgent, telling)
        except ProviderError as error:
            if not error.at_once or submission.dropped:
                raise
            if telling:
                telling.retried(0.0)
    return await _send_reserved(requests, submission, texts, tokens, admission, urgent, telling)


async def _send_reserved(
    requests: Requests,
    submission: Submission,
    texts: Sequence[str],
    tokens: float,
    admission: Admission,
    urgent: bool,
    telling: RequestTeller | None,
) -> Reply:
    """Sends one request, and reserves what may be on its bill before it goes out."""
    # Law 6: what can be refused is refused before money is spent (key, model, dimension, ..., budget).
    held = None
    if submission.spend_limit and submission.costs:
        held = await submission.spend_limit.reserve(submission.costs.most_billed(texts, tokens))
        if submission.dropped:
            held.release()
            raise asyncio.CancelledError
    submission.requests += 1
    address = requests.addresses[admission]
    if telling:
        telling.started(address.origin)
    try:
        reply = await requests.send_once(texts, tokens, submission, admission, urgent=urgent)
    except BaseException as error:
        address.meter.note_error(error)
        if telling:
            telling.missed(error)
        # What may be on the bill stays noted in the budget; what surely is not is given back.
        if may_be_billed(error):
            submission.lost_tokens += ceil(tokens)
        elif held:
            held.release()
        raise
    if telling:
        spent = billed_tokens(reply.usage.tokens, tokens)
        telling.answered(reply, spent, cost_of(spent, reply.usage.cost_usd, address.meter.price_usd))
    if held and submission.costs:
        billed = submission.costs.believed_bill(texts, tokens, reply.usage.tokens)
        await held.settle(billed, reply.usage.cost_usd)
    return reply

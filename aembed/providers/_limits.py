"""What a refusal says of limits: how much a request may carry, and what no short wait clears. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aembed.core.header_names import usual_names
from aembed.core.headers import SpentWindow, find_spent_window, never_clearing_limit
from aembed.providers._complaints import Complaint
from aembed.types import Hints

# As much as a Complaint keeps of a reason.
_READ_CHARACTERS = 2_000


def _pattern(text: str) -> re.Pattern[str]:
    """MOST is the number of a limit, GOT what the request had of it, OVER by how much that was above."""
    # Twelve digits: no limit has more, and int() of a long run takes time with the square of its length.
    number = r"\d{1,3}(?:[,_]\d{3})+|\d{1,12}"
    for name in ("MOST", "GOT", "OVER"):
        text = text.replace(name, f"(?P<{name.lower()}>{number})")
    return re.compile(text, re.IGNORECASE | re.DOTALL)


_ITEMS = (
    r"(?:inputs?|texts?|documents?|items?|elements?|entries|strings|sentences|instances?)(?:\(s\))?"
    r"(?!\w| ?(?:tokens?|characters?|length)\b)"
)
_MANY = (
    rf"(?:batch[ _]?size|batch (?:is )?too (?:large|big)|item count|too many {_ITEMS}|\d {_ITEMS}|"
    rf"(?:number|count) of {_ITEMS}|(?:array|list)(?: of {_ITEMS})?|size of ['\"`]?inputs?['\"`]?|数组|条数|数量)"
)
# What stands between a limit and its number. A full stop ends what is said of it, unless a number goes on.
_NEAR = r"[^.\d]{0,40}?"
_NOT_OF_TEXTS = r"(?!\d|[,_]\d|[ -]?(?:input |total )?(?:tokens?|characters?|bytes|[kmg]b)\b)"
_AT_MOST = (
    r"(?:at most|(?:no|not?|be) more than|more than|up to|only|limited to|less than or equal to|maximum(?: of)?|"
    r"max(?: of)?|limit(?: of|:)|between \d+ and|<=)"
)
_INPUTS = (
    _pattern(rf"{_AT_MOST} MOST (?:{_ITEMS}(?! (?:per|an?|each|/) ?(?:second|minute|hour|day))|requests can be in)"),
    _pattern(rf"\bmax(?:imum)?[ _](?:allowed )?{_MANY}{_NEAR} ?MOST\b{_NOT_OF_TEXTS}"),
    _pattern(
        rf"{_MANY}.{{0,60}}?(?:max(?:imum)?|limit(?:ed to)?|at most|exceed(?:s|ed)?|than(?: or equal to)?|>|<=|allowed|"
        rf"between \d+ and|\[\d+,|最大|超过){_NEAR}MOST\b{_NOT_OF_TEXTS}"
    ),
    _pattern(rf"\bMOST {_ITEMS} (?:(?:are|is) allowed|at most)"),
    _pattern(rf"\d {_ITEMS}\b.{{0,40}}\bonly MOST (?:are|is) allowed"),
    _pattern(rf"\bmax(?:imum)?(?: allowed)? {_ITEMS}(?: per \w+)?{_NEAR}MOST\b{_NOT_OF_TEXTS}"),
    _pattern(rf"\bmaxItems\b{_NEAR}MOST\b"),  # JSON Schema
)
_ONE = re.compile(rf"\bonly (?:one|a single) {_ITEMS}", re.IGNORECASE)
"""Of texts: their number is named before or behind the limit, and how many there were may stand between."""
_TOKENS = (
    _pattern(r"\blimit:? MOST(?: tokens)?,(?: used:? [\d,]{1,15},)? requested:? GOT"),
    _pattern(r"\brequested:? (?:about )?GOT(?: tokens)?,? (?:but )?(?:the )?(?:max(?:imum)?|limit)\b[^.\d]{0,40}MOST"),
    _pattern(r"\bmax(?:imum)?(?: of)? MOST tokens per (?:request|batch)"),
    _pattern(r"\btokens in batch\. max is MOST(?: got GOT)?"),
    _pattern(r"\btokens per (?:submitted )?batch is MOST(?:\. your batch has GOT)?"),
    _pattern(r"\btoo large\b.{0,80}\bmax(?:imum)? size:? MOST tokens"),
)
"""Of all texts of a request: OpenAI's limit of a minute and of a request, text-embeddings-inference, Voyage, GitHub."""
_CONTEXT = (
    _pattern(r"\bmaximum context length is MOST tokens[.,]? however,? you requested (?:about )?GOT"),
    _pattern(r"\btoken count\b[^\d]{0,10}GOT\b.{0,60}(?:tokens allowed|supports (?:only )?up to)[^\d]{0,5}MOST"),
    _pattern(r"\bGOT tokens? > MOST"),
    _pattern(r"\bexceeded by OVER tokens\b.{0,80}\blimit\b[^.\d]{0,30}MOST tokens"),
)
"""Of one text or of all, the words do not say which: OpenAI and vLLM, Google, Cohere."""
_OF_REQUESTS = re.compile(r"\brequests? (?:per|/)|\brp[mds]\b", re.IGNORECASE)
_TOO_LARGE = re.compile(r"\brequest (?:body |entity |payload )?(?:is |was )?too large\b", re.IGNORECASE)
_NOTHING_ALLOWED = re.compile(
    r"\b(?:limit(?: is| of)?[\s:=(]{1,3}|allows (?:only )?)0\b(?![.,]?\d)"
    r"(?!\s*(?:requests?|tokens?|calls?)?\s*(?:left|remaining))",
    re.IGNORECASE,
)
_EACH = r"(?:\b(?:per|an?|each|this)[ -]|/ ?)"
_LONG_WINDOWS = {
    "day": re.compile(
        rf"{_EACH}(?:day|24 ?h(?:ours?)?|86,?400 ?s)\b|\bdaily\b|\b[rt]pd\b|PerDay|ByDay|\bfor today\b", re.IGNORECASE
    ),
    "week": re.compile(rf"{_EACH}week\b|\bweekly\b|PerWeek", re.IGNORECASE),
    "month": re.compile(rf"{_EACH}(?:month|billing (?:period|cycle))\b|\bmonthly\b|PerMonth", re.IGNORECASE),
}
_SHORT_WINDOW = re.compile(rf"{_EACH}(?:second|sec|minute|min|hour)\b|\b[rt]p[ms]\b", re.IGNORECASE)
_PACIFIC = re.compile("PerDay", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """What one request may carry, as words say it, and how many tokens this one had.

    `tokens` are those of all its texts, `context` those of one text or of all: the words do not say which.
    """

    inputs: int | None = None
    tokens: int | None = None
    context: int | None = None
    requested: int | None = None


def size_in(reason: str) -> SizeLimit:
    reason = reason[:_READ_CHARACTERS]
    inputs = 1 if _ONE.search(reason) else _first_limit(_INPUTS, reason)[0]
    if _OF_REQUESTS.search(reason):
        return SizeLimit(inputs)
    if tokens := _first_limit(_TOKENS, reason)[0]:
        return SizeLimit(inputs, tokens, requested=_first_limit(_TOKENS, reason)[1])
    context, requested = _first_limit(_CONTEXT, reason)
    return SizeLimit(inputs, context=context, requested=requested)


def is_too_large(reason: str) -> bool:
    """Words of a rate limit that no request of this size ever keeps, however long it waits."""
    size = size_in(reason)
    most = size.tokens or size.context
    if most and size.requested:
        return size.requested > most
    return _TOO_LARGE.search(reason[:_READ_CHARACTERS]) is not None


@dataclass(frozen=True, slots=True)
class LastingLimit:
    """Why a rate limit does not clear within minutes. `spent`: a day or a month is used up."""

    reason: str
    spent: SpentWindow | None = None


def find_lasting_limit(
    headers: Mapping[str, str], complaint: Complaint, hints: Hints, *, tokens: float, texts: int
) -> LastingLimit | None:
    """None for a limit that a short wait clears, as far as is said."""
    headers = usual_names(headers)
    zero = never_clearing_limit(headers, hinted=hints.retry_after is not None)
    if not zero and _NOTHING_ALLOWED.search(complaint.reason):
        zero = "limit 0"
    if zero:
        return LastingLimit(f"the plan of this key does not include this model ({zero})")
    spent = find_spent_window(headers, tokens=tokens, texts=texts) or _find_spent_in_words(complaint, hints)
    if spent is None:
        return None
    if spent.reset is not None:
        resets = f"resets in {_duration_in_words(spent.reset)}"
    elif any(map(_PACIFIC.search, complaint.quotas)):
        resets = "resets at midnight Pacific time"
    else:
        resets = f"when the {spent.name} resets is not said"
    return LastingLimit(f"the limit of the {spent.name} is used up, {resets}; run the same again then", spent)


def _find_spent_in_words(complaint: Complaint, hints: Hints) -> SpentWindow | None:
    """A limit by its name in Google's replies, or in the words of a refusal that speaks of no shorter window."""
    said = " ".join(complaint.quotas) or complaint.reason[:_READ_CHARACTERS]
    if not complaint.quotas and _SHORT_WINDOW.search(said):
        return None
    named = [name for name, words in _LONG_WINDOWS.items() if words.search(said)]
    if not named:
        return None
    # Google's `retryDelay` is that of its minute, also where the day is used up.
    # Of a day and a month the month counts, which is the last one here.
    return SpentWindow(named[-1], None if complaint.quotas else hints.retry_after)


def _duration_in_words(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{round(hours / 24)} days"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _first_limit(patterns: tuple[re.Pattern[str], ...], text: str) -> tuple[int | None, int | None]:
    """The first limit above 0 that is named, and what the request had of it."""
    for pattern in patterns:
        found = pattern.search(text)
        if found is None:
            continue
        numbers = {name: int(re.sub(r"\D", "", value)) for name, value in found.groupdict().items() if value}
        most, got = numbers["most"], numbers.get("got")
        if most > 0:
            return most, numbers["over"] + most if "over" in numbers else got
    return None, None

"""Headers of limits are spelt in several ways: `x-ratelimit-limit`, `x-rate-limit-limit`, `ratelimit-limit`, and one
for all of them. They are read by their first spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"(?:x-)?rate-?limit-(.{1,60})")
# draft-ietf-httpapi-ratelimit-headers-09: `RateLimit: "x";r=50;t=30` and `RateLimit-Policy: "x";q=100;w=60`.
_FIELDS = {"ratelimit": {"r": "remaining", "t": "reset"}, "ratelimit-policy": {"q": "limit"}}
_FIELD = re.compile(r";\s{0,8}([a-z]{1,8})=([0-9]{1,12})\b")


def usual_names(headers: Mapping[str, str]) -> Mapping[str, str]:
    """These headers, whose names are in lower case, with those of limits beside them as `x-ratelimit-...`."""
    usual: dict[str, str] = {}
    for name, value in headers.items():
        if fields := _FIELDS.get(name):
            said = dict(_FIELD.findall(value.partition(",")[0]))
            usual.update((f"x-ratelimit-{fields[field]}", said[field]) for field in fields if field in said)
        elif found := _NAME.fullmatch(name):
            usual[f"x-ratelimit-{found[1]}"] = value
    return {**headers, **usual} if usual.keys() - headers.keys() else headers

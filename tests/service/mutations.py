"""Replies that are wrong in one way each, floats or base64. `Mutate(wrong("fewer", seed=3))` sends one.

An edit gets the reply as JSON values and a seeded Random; it returns what to send instead, or the very bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import numpy as np
import pybase64
from numpy.typing import NDArray

Reply: TypeAlias = dict[str, Any]
Edit: TypeAlias = Callable[[Reply, Random], Any]


def wrong(name: str, seed: int = 0) -> Callable[[Reply], Any]:
    """One of BROKEN or HARMLESS, for `Mutate`."""
    edit = (BROKEN | HARMLESS)[name]
    return lambda reply: edit(reply, Random(seed))


def _values(given: Any) -> NDArray[np.float32]:
    if isinstance(given, str):
        return np.frombuffer(pybase64.b64decode(given), dtype="<f4").copy()
    return np.asarray(given, dtype=np.float32)


def _like(given: Any, values: NDArray[np.float32]) -> Any:
    if isinstance(given, str):
        return pybase64.b64encode(values.astype("<f4").tobytes()).decode()
    return values.tolist()


def _one(reply: Reply, random: Random) -> dict[str, Any]:
    row: dict[str, Any] = random.choice(reply["data"])
    return row


def _vector(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Edit:
    """Changes the numbers of one vector. Sent by a lenient encoder: NaN and Infinity stay what they are."""

    def edit(reply: Reply, random: Random) -> bytes:
        row = _one(reply, random)
        with np.errstate(all="ignore"):
            row["embedding"] = _like(row["embedding"], change(_values(row["embedding"])))
        return json.dumps(reply).encode()

    return edit


def _embedding(value: Any) -> Edit:
    """Puts something else where one vector was."""

    def edit(reply: Reply, random: Random) -> Reply:
        row = _one(reply, random)
        row["embedding"] = value(row["embedding"]) if callable(value) else value
        return reply

    return edit


def _index(value: Callable[[int, int], Any]) -> Edit:
    """Changes one index; `value` gets it and the number of rows."""

    def edit(reply: Reply, random: Random) -> Reply:
        row = _one(reply, random)
        row["index"] = value(row["index"], len(reply["data"]))
        return reply

    return edit


def _indices(written: Callable[[int], dict[str, Any]]) -> Edit:
    """Writes all of them in another way."""

    def edit(reply: Reply, random: Random) -> Reply:
        for row in reply["data"]:
            row |= written(row.pop("index"))
        return reply

    return edit


def _last_index_missing(reply: Reply, random: Random) -> Reply:
    del reply["data"][-1]["index"]
    return reply


def _top(**fields: Any) -> Edit:
    return lambda reply, random: reply | fields


def _without(*names: str) -> Edit:
    return lambda reply, random: {name: value for name, value in reply.items() if name not in names}


def _instead(content: Any) -> Edit:
    return lambda reply, random: content


def _bytes(change: Callable[[bytes], bytes]) -> Edit:
    return lambda reply, random: change(json.dumps(reply).encode())


def _drop_row_key(name: str, *, everywhere: bool = False) -> Edit:
    def edit(reply: Reply, random: Random) -> Reply:
        for row in reply["data"] if everywhere else [_one(reply, random)]:
            del row[name]
        return reply

    return edit


def _fewer(reply: Reply, random: Random) -> Reply:
    reply["data"].remove(_one(reply, random))
    return reply


def _more(reply: Reply, random: Random) -> Reply:
    extra = dict(_one(reply, random), index=len(reply["data"]))
    return reply | {"data": [*reply["data"], extra]}


def _twice(reply: Reply, random: Random) -> Reply:
    return reply | {"data": [*reply["data"], dict(_one(reply, random))]}


def _shuffled(reply: Reply, random: Random) -> Reply:
    random.shuffle(reply["data"])
    return reply


def _set(values: NDArray[np.float32], number: float) -> NDArray[np.float32]:
    values[len(values) // 2] = number
    return values


def _junk(given: Any) -> Any:
    return f"{given[:8]}*!{given[10:]}" if isinstance(given, str) else [*given[:-1], "junk"]


def _odd(given: Any) -> Any:
    return given[:-3] if isinstance(given, str) else [*given[:-1], [given[-1]]]


BROKEN: dict[str, Edit] = {
    "fewer": _fewer,
    "more": _more,
    "row twice": _twice,
    "no rows": _top(data=[]),
    "data missing": _without("data"),
    "data null": _top(data=None),
    "data an object": lambda reply, random: reply | {"data": {str(r["index"]): r for r in reply["data"]}},
    "row null": lambda reply, random: reply | {"data": [None, *reply["data"][1:]]},
    "row bare": lambda reply, random: reply | {"data": [row["embedding"] for row in reply["data"]]},
    "index beyond": _index(lambda i, n: n),
    "index huge": _index(lambda i, n: 10**30),
    "index negative": _index(lambda i, n: -1 - i),
    "index a fraction": _index(lambda i, n: i + 0.5),
    "index no number": _index(lambda i, n: f"text {i}"),
    "index a boolean": _index(lambda i, n: True),
    "index an object": _index(lambda i, n: {}),
    "index missing once": _last_index_missing,
    "vector missing": _drop_row_key("embedding"),
    "vector null": _embedding(None),
    "vector empty": _embedding(lambda given: given[:0]),
    "vector a number": _embedding(0.5),
    "vector an object": _embedding(lambda given: {"values": given}),
    "vector nested": _embedding(lambda given: [given]),
    "vector with junk": _embedding(_junk),
    "vector of odd length": _embedding(_odd),
    "vector shorter": _vector(lambda values: values[:-1]),
    "vector longer": _vector(lambda values: np.append(values, values[:1])),
    "vector zero": _vector(np.zeros_like),
    "vector NaN": _vector(lambda values: _set(values, np.nan)),
    "vector infinite": _vector(lambda values: _set(values, np.inf)),
    "vector all NaN": _vector(lambda values: values * np.float32(np.nan)),
    "vector far too long": _vector(lambda values: values * np.float32(1_000)),
    "vector byte-swapped": _vector(lambda values: values.byteswap()),
    "error object": _instead({"error": {"message": "overloaded", "type": "server_error", "param": None, "code": None}}),
    "detail object": _instead({"detail": "Internal error"}),
    "a list": _instead([]),
    "a string": _instead("ok"),
    "null": _instead(None),
    "empty object": _instead({}),
    "empty body": _instead(b""),
    "a page": _instead(b"<!doctype html><title>Sign in</title>"),
    "not UTF-8": _instead(b'{"object":"list","data":[{"embedding":"\xff\xfe"}]}'),
    "deep nesting": _instead(b"[" * 200_000),
    "a 5,000-digit integer": _bytes(lambda body: body.replace(b'"index": 0', b'"index": ' + b"9" * 5_000)),
    "more after the end": _bytes(lambda body: body + body),
    "half of it": _bytes(lambda body: body[: len(body) // 2]),
    "last byte missing": _bytes(lambda body: body[:-1]),
}
"""None of these may reach a store."""

HARMLESS: dict[str, Edit] = {
    "shuffled": _shuffled,
    "index missing everywhere": _drop_row_key("index", everywhere=True),
    "index null everywhere": _indices(lambda i: {"index": None}),
    "index 0 left out": _indices(lambda i: {"index": i} if i else {}),
    "index as text": _indices(lambda i: {"index": str(i)}),
    "unknown fields": _top(id="x", created=1, provider={"name": "y"}),
    "usage missing": _without("usage"),
    "usage null": _top(usage=None),
    "usage none": _top(usage={"prompt_tokens": 0, "total_tokens": 0}),
    "usage huge": _top(usage={"prompt_tokens": 10**12, "total_tokens": 10**12}),
    "object missing": _without("object"),
    "spaces": _bytes(lambda body: b" \n" + body + b"\n"),
}
"""Odd, but every vector is there and can be told apart."""

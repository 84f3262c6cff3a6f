"""Replies that are broken in every way that was met or thought of, for the decoder and whoever uses it."""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from aembed.core.replies import Parsed, ReplyReader

Reply = dict[str, Any]
Mutation = Callable[[random.Random, Reply], "Reply | bytes | None"]
"""Returns the broken reply, or None where that fault has no form in this format."""

KINDS: dict[str, Mutation] = {}
LITERAL = "\u0001"
"""Marks a string that is to stand in the JSON without its quotes: NaN, 1e999, 5,000 digits."""


def kind(mutation: Mutation) -> Mutation:
    KINDS[mutation.__name__] = mutation
    return mutation


def literal(text: str) -> str:
    return f"{LITERAL}{text}{LITERAL}"


def unit_vectors(seed: int, n: int, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.random.default_rng(seed).standard_normal((n, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def encoded(vector: Any, *, floats: bool) -> Any:
    values = np.asarray(vector, "<f4")
    return [float(value) for value in values] if floats else base64.b64encode(values.tobytes()).decode()


def reply_of(vectors: Any, *, floats: bool) -> Reply:
    items = [
        {"object": "embedding", "index": i, "embedding": encoded(vector, floats=floats)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return {"object": "list", "data": items, "model": "text-embedding-3-small", "usage": usage}


def wire(reply: Reply | bytes) -> bytes:
    if isinstance(reply, bytes):
        return reply
    text = json.dumps(reply, ensure_ascii=False)
    return text.replace(f'"{LITERAL}', "").replace(f'{LITERAL}"', "").replace("\\u0001", "").encode()


def parse_openai(body: bytes, *, inputs: int, dimensions: int | None, normalised: bool = False) -> Parsed:
    """What a reply says that has come whole."""
    reader = ReplyReader(inputs)
    reader.feed(body)
    return reader.parse(dimensions=dimensions, normalised=normalised)


def is_floats(reply: Reply) -> bool:
    return isinstance(reply["data"][0]["embedding"], list)


def pick(rng: random.Random, reply: Reply) -> Reply:
    item: Reply = rng.choice(reply["data"])
    return item


def with_vector(rng: random.Random, reply: Reply, change: Callable[[Any], Any]) -> Reply:
    """One vector, as an array, replaced by what `change` makes of it."""
    item, floats = pick(rng, reply), is_floats(reply)
    vector = item["embedding"] if floats else np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
    item["embedding"] = encoded(change(np.array(vector, np.float32)), floats=floats)
    return reply


def with_index(rng: random.Random, reply: Reply, index: Any) -> Reply:
    pick(rng, reply)["index"] = index
    return reply


def with_embedding(rng: random.Random, reply: Reply, embedding: Any) -> Reply:
    pick(rng, reply)["embedding"] = embedding
    return reply


def with_number(rng: random.Random, reply: Reply, number: Any) -> Reply | None:
    if not is_floats(reply):
        return None
    values = pick(rng, reply)["embedding"]
    values[rng.randrange(len(values))] = number
    return reply


def with_characters(rng: random.Random, reply: Reply, change: Callable[[str, int], str]) -> Reply | None:
    if is_floats(reply):
        return None
    item = pick(rng, reply)
    text = item["embedding"].rstrip("=")
    item["embedding"] = change(text, rng.randrange(len(text) - 1))
    return reply


# -- how many -------------------------------------------------------------------------------------------------


@kind
def one_vector_missing(rng: random.Random, reply: Reply) -> Reply:
    reply["data"].pop(rng.randrange(len(reply["data"])))
    return reply


@kind
def last_vector_missing(rng: random.Random, reply: Reply) -> Reply:
    reply["data"].pop()
    return reply


@kind
def no_vectors(rng: random.Random, reply: Reply) -> Reply:
    return reply | {"data": []}


@kind
def one_vector_more(rng: random.Random, reply: Reply) -> Reply:
    reply["data"].append(dict(pick(rng, reply), index=len(reply["data"])))
    return reply


@kind
def an_item_twice(rng: random.Random, reply: Reply) -> Reply:
    reply["data"].append(dict(pick(rng, reply)))
    return reply


@kind
def an_item_in_the_place_of_another(rng: random.Random, reply: Reply) -> Reply:
    a, b = rng.sample(range(len(reply["data"])), 2)
    reply["data"][a] = dict(reply["data"][b])
    return reply


@kind
def twice_as_many_without_index(rng: random.Random, reply: Reply) -> Reply:
    items = [{"embedding": item["embedding"]} for item in reply["data"]]
    return reply | {"data": items + items}


# -- index ----------------------------------------------------------------------------------------------------


@kind
def index_twice(rng: random.Random, reply: Reply) -> Reply:
    a, b = rng.sample(reply["data"], 2)
    a["index"] = b["index"]
    return reply


@kind
def index_beyond_the_end(rng: random.Random, reply: Reply) -> Reply:
    return with_index(rng, reply, len(reply["data"]) + rng.randrange(5))


@kind
def index_negative(rng: random.Random, reply: Reply) -> Reply:
    return with_index(rng, reply, -rng.randint(1, len(reply["data"])))


@kind
def index_float(rng: random.Random, reply: Reply) -> Reply:
    item = pick(rng, reply)
    item["index"] = float(item["index"])
    return reply


@kind
def index_string(rng: random.Random, reply: Reply) -> Reply:
    return with_index(rng, reply, rng.choice(["", "x", "-1", "0.0", "1e0", " 1", "\u00b2", "\u0661", "9" * 5_000]))


@kind
def index_bool(rng: random.Random, reply: Reply) -> Reply:
    item = rng.choice(reply["data"][:2])
    item["index"] = bool(item["index"])
    return reply


@kind
def index_null(rng: random.Random, reply: Reply) -> Reply:
    """What is null is missing, and only 0 may be."""
    rng.choice(reply["data"][1:])["index"] = None
    return reply


@kind
def index_null_on_some(rng: random.Random, reply: Reply) -> Reply:
    for item in rng.sample(reply["data"], rng.randint(2, len(reply["data"]) - 1)):
        item["index"] = None
    return reply


@kind
def index_missing_on_some(rng: random.Random, reply: Reply) -> Reply:
    for item in rng.sample(reply["data"], rng.randint(2, len(reply["data"]) - 1)):
        del item["index"]
    return reply


@kind
def index_of_5000_digits(rng: random.Random, reply: Reply) -> Reply:
    return with_index(rng, reply, literal("1" * 5_000))


@kind
def index_beyond_64_bits(rng: random.Random, reply: Reply) -> Reply:
    return with_index(rng, reply, 2**64 + rng.randrange(9))


@kind
def index_a_list(rng: random.Random, reply: Reply) -> Reply:
    return with_index(rng, reply, [0])


@kind
def index_from_one(rng: random.Random, reply: Reply) -> Reply:
    for item in reply["data"]:
        item["index"] += 1
    return reply


@kind
def index_zero_everywhere(rng: random.Random, reply: Reply) -> Reply:
    for item in reply["data"]:
        item["index"] = 0
    return reply


# -- shape ----------------------------------------------------------------------------------------------------


@kind
def one_vector_short(rng: random.Random, reply: Reply) -> Reply:
    return with_vector(rng, reply, lambda v: v[: -rng.randint(1, len(v) - 1)])


@kind
def one_vector_long(rng: random.Random, reply: Reply) -> Reply:
    return with_vector(rng, reply, lambda v: np.append(v, v[: rng.randint(1, len(v))]))


@kind
def one_vector_empty(rng: random.Random, reply: Reply) -> Reply:
    return with_vector(rng, reply, lambda v: v[:0])


def _all_vectors(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    for i in range(len(reply["data"])):
        one = {"data": [reply["data"][i]]}
        reply["data"][i] = with_vector(random.Random(0), one, change)["data"][0]
    return reply


@kind
def all_vectors_short(rng: random.Random, reply: Reply) -> Reply:
    return _all_vectors(reply, lambda v: v[:-1] / np.linalg.norm(v[:-1]))


@kind
def all_vectors_long(rng: random.Random, reply: Reply) -> Reply:
    return _all_vectors(reply, lambda v: np.append(v, np.float32(0)))


@kind
def all_vectors_empty(rng: random.Random, reply: Reply) -> Reply:
    return _all_vectors(reply, lambda v: v[:0])


@kind
def one_vector_nested(rng: random.Random, reply: Reply) -> Reply:
    return with_embedding(rng, reply, [pick(rng, reply)["embedding"]])


@kind
def one_vector_in_the_other_format(rng: random.Random, reply: Reply) -> Reply:
    floats = is_floats(reply)
    return with_embedding(rng, reply, encoded(unit_vectors(0, 1, 8)[0], floats=not floats))


# -- values ---------------------------------------------------------------------------------------------------


def _one_value(rng: random.Random, reply: Reply, value: float) -> Reply:
    def change(vector: Any) -> Any:
        vector[rng.randrange(len(vector))] = value
        return vector

    return with_vector(rng, reply, change)


@kind
def value_nan(rng: random.Random, reply: Reply) -> Reply:
    return _one_value(rng, reply, float("nan"))


@kind
def value_infinite(rng: random.Random, reply: Reply) -> Reply:
    return _one_value(rng, reply, float("inf"))


@kind
def value_minus_infinite(rng: random.Random, reply: Reply) -> Reply:
    return _one_value(rng, reply, float("-inf"))


@kind
def value_huge(rng: random.Random, reply: Reply) -> Reply:
    return _one_value(rng, reply, 1e30)


@kind
def value_beyond_float32(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, 1e39)


@kind
def value_beyond_float64(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, literal("1e999"))


@kind
def value_of_5000_digits(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, literal("9" * 5_000))


@kind
def value_null(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, None)


@kind
def value_string(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, "0.1")


@kind
def value_bool(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, True)


@kind
def value_a_list(rng: random.Random, reply: Reply) -> Reply | None:
    return with_number(rng, reply, [0.1])


@kind
def zero_vector(rng: random.Random, reply: Reply) -> Reply:
    return with_vector(rng, reply, lambda v: v * 0)


@kind
def norm_too_large(rng: random.Random, reply: Reply) -> Reply:
    return with_vector(rng, reply, lambda v: v * rng.uniform(1.2, 50))


@kind
def norm_too_small(rng: random.Random, reply: Reply) -> Reply:
    return with_vector(rng, reply, lambda v: v * rng.uniform(0.001, 0.8))


# -- base64 ---------------------------------------------------------------------------------------------------


@kind
def base64_junk(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + rng.choice("!$%.,;:~^*()") + text[i + 1 :])


@kind
def base64_url_alphabet(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + rng.choice("-_") + text[i + 1 :])


@kind
def base64_white_space(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + rng.choice(" \n\r\t") + text[i:])


@kind
def base64_padding_inside(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + "=" + text[i + 1 :])


@kind
def base64_one_character_short(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + text[i + 1 :])


@kind
def base64_one_character_long(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text + "A")


@kind
def base64_without_its_end(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i])


@kind
def base64_not_ascii(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + "é" + text[i + 1 :])


@kind
def base64_nul(rng: random.Random, reply: Reply) -> Reply | None:
    return with_characters(rng, reply, lambda text, i: text[:i] + "\x00" + text[i + 1 :])


def _recoded(reply: Reply, change: Callable[[Any], bytes]) -> Reply | None:
    if is_floats(reply):
        return None
    for item in reply["data"]:
        values = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        item["embedding"] = base64.b64encode(change(values)).decode()
    return reply


@kind
def base64_of_halves(rng: random.Random, reply: Reply) -> Reply | None:
    return _recoded(reply, lambda values: values.astype("<f2").tobytes())


@kind
def base64_big_endian(rng: random.Random, reply: Reply) -> Reply | None:
    return _recoded(reply, lambda values: values.astype(">f4").tobytes())


@kind
def base64_shifted_by_a_byte(rng: random.Random, reply: Reply) -> Reply | None:
    return _recoded(reply, lambda values: values.tobytes()[1:] + b"\0")


@kind
def base64_one_byte_short(rng: random.Random, reply: Reply) -> Reply | None:
    return _recoded(reply, lambda values: values.tobytes()[:-1])


@kind
def base64_twice(rng: random.Random, reply: Reply) -> Reply | None:
    return _recoded(reply, lambda values: base64.b64encode(values.tobytes()))


@kind
def hexadecimal(rng: random.Random, reply: Reply) -> Reply | None:
    if is_floats(reply):
        return None
    for item in reply["data"]:
        item["embedding"] = base64.b64decode(item["embedding"]).hex()
    return reply


# -- structure ------------------------------------------------------------------------------------------------


@kind
def embedding_missing(rng: random.Random, reply: Reply) -> Reply:
    del pick(rng, reply)["embedding"]
    return reply


@kind
def embedding_of_another_type(rng: random.Random, reply: Reply) -> Reply:
    return with_embedding(rng, reply, rng.choice([None, 0.5, True, {}, {"float": [1.0]}]))


@kind
def item_of_another_type(rng: random.Random, reply: Reply) -> Reply:
    reply["data"][rng.randrange(len(reply["data"]))] = rng.choice([None, 1, "x", [], [0.1, 0.2]])
    return reply


@kind
def data_missing(rng: random.Random, reply: Reply) -> Reply:
    del reply["data"]
    return reply


@kind
def data_of_another_type(rng: random.Random, reply: Reply) -> Reply:
    return reply | {"data": rng.choice([None, 0, "", {}, {"0": pick(rng, reply)}, True])}


@kind
def data_under_another_name(rng: random.Random, reply: Reply) -> Reply:
    return {"embeddings": reply.pop("data")} | reply


@kind
def error_object(rng: random.Random, reply: Reply) -> Reply:
    return {"error": rng.choice(["overloaded", {"message": "overloaded", "type": "server_error", "code": None}])}


@kind
def detail_object(rng: random.Random, reply: Reply) -> Reply:
    return {"detail": rng.choice(["Not Found", [{"loc": ["body"], "msg": "x", "type": "y"}]])}


# -- bytes ----------------------------------------------------------------------------------------------------


@kind
def cut_short(rng: random.Random, reply: Reply) -> bytes:
    body = wire(reply)
    return body[: rng.randrange(1, len(body))]


@kind
def empty(rng: random.Random, reply: Reply) -> bytes:
    return rng.choice([b"", b" ", b"\n\n"])


@kind
def bad_utf8(rng: random.Random, reply: Reply) -> bytes:
    body = wire(reply).replace(b"text-embedding", b"text\xff\xfe")
    return body if rng.random() < 0.5 else b"\xff\xfe" + body


@kind
def deep_nesting(rng: random.Random, reply: Reply) -> bytes:
    deep = rng.choice([b"[", b'{"a":']) * 100_000
    return rng.choice([deep, b'{"data":' + deep, wire(reply)[:-1] + b',"more":' + deep])


@kind
def bytes_after_the_end(rng: random.Random, reply: Reply) -> bytes:
    return wire(reply) + rng.choice([b"x", b"}", b"{}", wire(reply), b"\x00"])


@kind
def bytes_before_the_start(rng: random.Random, reply: Reply) -> bytes:
    return rng.choice([b"\xef\xbb", b"data: ", b")]}',\n", b"\x00"]) + wire(reply)


@kind
def a_byte_that_ends_the_json(rng: random.Random, reply: Reply) -> bytes:
    body = wire(reply)
    places = [i for i, byte in enumerate(body) if byte in b'{}[]:,"']
    i = rng.choice(places)
    return body[:i] + b"\x01" + body[i + 1 :]


@kind
def html(rng: random.Random, reply: Reply) -> bytes:
    return b"<html><body><h1>502 Bad Gateway</h1></body></html>"


@kind
def still_compressed(rng: random.Random, reply: Reply) -> bytes:
    return gzip.compress(wire(reply), mtime=0)


@kind
def another_json_value(rng: random.Random, reply: Reply) -> bytes:
    return rng.choice([b"null", b"[]", b"0", b'"ok"', b"true", b"{}", json.dumps(reply["data"]).encode()])


@kind
def python_instead_of_json(rng: random.Random, reply: Reply) -> bytes:
    return repr(reply).encode()


@kind
def constants_that_json_lacks(rng: random.Random, reply: Reply) -> bytes:
    word = rng.choice([b"NaN", b"Infinity", b"-Infinity", b"undefined", b"None"])
    return wire(reply).replace(b'"object": "list"', b'"object": ' + word)

"""What is said of a provider by its options and the environment. What cannot be raises ConfigError at once."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias, TypedDict
from urllib.parse import urlsplit

import msgspec

from aembed.core.addresses import is_loopback
from aembed.errors import ConfigError
from aembed.providers._form import Encoding
from aembed.providers._models import Model, widths_in_words
from aembed.providers._secrets import Secret, check_key
from aembed.providers._service import Fields, Service
from aembed.providers._urls import check_base_url, is_nearby
from aembed.ranges import one_line_of

KeySource: TypeAlias = Callable[[], Awaitable[str]]
"""Gives a key, or a token that expires: it is asked again once the last one was refused."""
Headers: TypeAlias = Mapping[str, str | Secret]


class HTTPOptions(TypedDict, total=False):
    """The options of every provider that is reached over HTTP.

    `allow_http`: True sends key and texts unencrypted to a server that is not on this machine. `encoding` is "base64"
    or "float": which form of the vectors is asked for; None finds out what the server speaks. `extra_body` are fields
    that go into the body of each request beside its own, and `headers` go beside its own headers. `document_prefix` and
    `query_prefix` stand before each text, and `input_types` are the service's own words for documents and queries
    ("passage,query", "" sends none), each in the place of what the model is known to want; a store whose rows were made
    with other ones is refused. `max_tokens_per_text` is what the model takes, where that is less than is known.
    `normalize`: True scales each vector to length 1; None keeps them, and tells once where they are of another length.
    `record` is a folder for replies that are refused or broken. `truncate`: True lets the service cut a text that is
    too long for it.
    """

    allow_http: bool
    document_prefix: str | None
    encoding: Encoding | None
    extra_body: Mapping[str, Any]
    headers: Mapping[str, str]
    input_types: str | Sequence[str] | None
    max_tokens_per_text: int | None
    normalize: bool | None
    query_prefix: str | None
    record: str | PathLike[str] | None
    truncate: bool


class ProviderOptions(HTTPOptions, total=False):
    """Those, and the ones of single providers: `api_version` and `deployment` of azure:, `region` of bedrock:,
    `pooling` and `threads` of fastembed:."""

    api_version: str
    deployment: str
    pooling: str
    region: str | None
    threads: int | None


OPTIONS: Mapping[str, str] = {
    "allow_http": "true or false",
    "document_prefix": "a text",
    "encoding": "base64, float or null",
    "extra_body": "a JSON object, or extra_body.NAME=VALUE",
    "headers": "a JSON object, or headers.NAME=VALUE",
    "input_types": "the service's words for documents and queries, as passage,query",
    "max_tokens_per_text": "a whole number",
    "normalize": "true, false or null",
    "query_prefix": "a text",
    "record": "the path of a folder",
    "truncate": "true or false",
}
"""The same, as `open_provider` and the command's --option take them."""
# Names of RFC 9110, section 5.6.2.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Azure's gateways have ocp-apim-subscription-key, Cloudflare's cf-aig-authorization, Helicone helicone-auth.
_OF_KEYS = re.compile(r"\b(?:api)?(?:key|auth|authorization|token|secret|password|cookie|credentials?)s?\b")
_LEAST_SECRET = 16
"""Characters. Chosen: keys of services have 20 and more."""
# What the connection says of itself; a second one would contradict it.
_OF_THE_CONNECTION = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type"})


def is_of_key(header: str) -> bool:
    """Whether a header of that name holds a key, by one of the words in it."""
    return _OF_KEYS.search(header.lower().replace("_", "-")) is not None


def is_own(base_url: str) -> bool:
    """A server on this machine or in a network of one's own, by what is written."""
    host = urlsplit(base_url).hostname or ""
    return is_loopback(host) or is_nearby(host)


def check_dimensions(service: Service, model: str, known: Model, dimensions: int | None) -> int | None:
    if dimensions is None:
        return None
    if not service.dimensions_field and dimensions != known.dimensions:
        raise ConfigError(f"{service.name}: has no field that shortens vectors; leave out dimensions={dimensions}")
    # 16,000 is what pgvector can store. Where the model is not known, the server decides about less.
    if not 1 <= dimensions <= (known.dimensions or 16_000):
        raise ConfigError(f"dimensions={dimensions} must be from 1 to {known.dimensions or 16_000} for {model}")
    if dimensions == known.dimensions:
        return None  # vLLM and others refuse the field for models that cannot be shortened, whatever width it names.
    if known.shortens is False:
        raise ConfigError(f"{model} has {known.dimensions} dimensions and cannot be shortened; leave out dimensions")
    if known.widths and dimensions not in known.widths:
        raise ConfigError(f"dimensions={dimensions}: {model} may be shortened to {widths_in_words(known.widths)}")
    return dimensions


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} must be True or False")
    return value


def check_choice(name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} must be True, False or None")
    return value


def check_encoding(encoding: Encoding | None) -> Encoding | None:
    if encoding not in (None, "base64", "float"):
        raise ConfigError(f'encoding={encoding!r} must be "base64", "float" or None')
    return encoding


def check_tokens(tokens: int | None) -> int | None:
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise ConfigError(f"max_tokens_per_text={tokens!r} must be a whole number from 1, or None")
    return tokens


def check_fields(name: str, value: object) -> Fields:
    """Fields of a body: a mapping of names that JSON can hold."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise ConfigError(f"{name}={one_line_of(value)} must be a mapping of names to values")
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(f"{name}={one_line_of(value)} holds what JSON cannot hold") from None
    return dict(value)


def check_headers(value: object) -> Headers:
    """Those of the user, by their names in lower case."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"headers={one_line_of(value)} must be a mapping of names to values")
    checked: dict[str, str | Secret] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name) or name.lower() in _OF_THE_CONNECTION:
            raise ConfigError(f"headers: {one_line_of(name)} is not a name that a header of your own may have")
        # A value of the user's own may be a secret: it is kept as one, and no message shows it. Shorter than any key
        # it is a word, as of X-Title, which would be cut out of messages.
        if not isinstance(text, str) or not re.fullmatch(r"[\x20-\x7e]*", text):
            raise ConfigError(f"headers: the value of {name} must be printable ASCII")
        checked[name.lower()] = Secret(text) if len(text) >= _LEAST_SECRET else text
    return checked


def base_url_of(service: Service, base_url: str | None, allow_http: bool) -> str:
    if base_url is not None:
        checked = check_base_url(base_url, allow_http=allow_http)
        return service.with_path(checked.removesuffix(service.endpoint) if service.endpoint else checked)
    if service.url_variable and (named := os.environ.get(service.url_variable, "").strip()):
        url = service.with_path(service.url_of(named).rstrip("/"))
        return check_base_url(url, service.url_variable, allow_http=allow_http)
    if not service.base_url:
        also = f", or type  export {service.url_variable}=..." if service.url_variable else ""
        raise ConfigError(f"{service.name}: has no address of its own: pass base_url={also}")
    return service.base_url


def key_of(service: Service, api_key: str | KeySource | None, *, required: bool) -> Secret | KeySource | None:
    if api_key is not None:
        return api_key if callable(api_key) else check_key(api_key, "api_key")
    for variable in service.key_variables:
        if (named := os.environ.get(variable, "")).strip():
            return check_key(named, variable)
    if required and service.key_variables:
        first, *others = service.key_variables
        also = f"  (or {', '.join(others)})" if others else ""
        raise ConfigError(f"no key for {service.name}: pass api_key=, or type  export {first}=...{also}")
    return None


def headers_of(service: Service, own: Headers) -> Headers:
    """What every request says, but for its key."""
    headers: dict[str, str | Secret] = {
        "content-type": "application/json",
        "accept": "application/json",
        # Decompressing 19,207 vectors of 1,536 in base64 took 0.55 s of CPU time on the client.
        "accept-encoding": "identity",
    }
    for variable, header in service.header_variables.items():
        if value := os.environ.get(variable, "").strip():
            headers[header] = check_key(value, variable)
    return {**headers, **own}

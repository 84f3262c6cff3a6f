"""What is said of a provider by its options, its row and the environment. What cannot be raises ConfigError at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from aembed.core.addresses import is_loopback
from aembed.errors import ConfigError
from aembed.providers._form import Encoding
from aembed.providers._presets import Model, Preset
from aembed.providers._secrets import Secret, check_key
from aembed.providers._urls import check_base_url, is_nearby

ENDPOINT = "/embeddings"
"""Below the base URL."""


def is_own(base_url: str) -> bool:
    """A server on this machine or in a network of one's own, by what is written."""
    host = urlsplit(base_url).hostname or ""
    return is_loopback(host) or is_nearby(host)


def check_dimensions(model: str, known: Model, dimensions: int | None) -> int | None:
    if dimensions is None:
        return None
    # 16,000 is what pgvector can store. Where the model is not known, the server decides about less.
    if not 1 <= dimensions <= (known.dimensions or 16_000):
        raise ConfigError(f"dimensions={dimensions} must be from 1 to {known.dimensions or 16_000} for {model}")
    if not known.shortens and dimensions != known.dimensions:
        raise ConfigError(f"{model} has {known.dimensions} dimensions and cannot be shortened; leave out dimensions")
    return dimensions if known.shortens else None


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


def base_url_of(row: Preset, base_url: str | None, allow_http: bool) -> str:
    if base_url is not None:
        return row.with_path(check_base_url(base_url, allow_http=allow_http).removesuffix(ENDPOINT))
    named = os.environ.get(row.url_variable, "").strip()
    return check_base_url(row.url_of(named), row.url_variable, allow_http=allow_http) if named else row.base_url


def key_of(row: Preset, api_key: str | None, *, required: bool) -> Secret | None:
    if api_key is not None:
        return check_key(api_key, "api_key")
    named = os.environ.get(row.key_variable, "") if row.key_variable else ""
    if named.strip():
        return check_key(named, row.key_variable)
    if required and row.key_variable:
        raise ConfigError(f"no key for {row.name}: pass api_key=, or type  export {row.key_variable}=...")
    return None


def headers_of(row: Preset, key: Secret | None) -> Mapping[str, str | Secret]:
    headers: dict[str, str | Secret] = {
        "content-type": "application/json",
        "accept": "application/json",
        # Decompressing 19,207 vectors of 1,536 in base64 took 0.55 s of CPU time on the client.
        "accept-encoding": "identity",
    }
    if key is not None:
        headers["authorization"] = key.bearer()
    for variable, header in row.header_variables.items():
        if value := os.environ.get(variable, "").strip():
            headers[header] = check_key(value, variable)
    return headers

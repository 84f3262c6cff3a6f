"""The services that make vectors: one file per wire format, named by the prefix that users type."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from aembed.errors import ConfigError
from aembed.protocols import Provider
from aembed.ranges import dimensions_of

SAME_FORMAT = {"ollama": "openai", "tei": "openai"}
"""Prefixes that are rows of another prefix's file."""
_WITHOUT_MODEL = frozenset({"local"})


def prefixes() -> list[str]:
    """Every prefix that `open_provider` knows: the files of this folder, and the rows in them."""
    files = [module.name.replace("_", "-") for module in iter_modules(__path__) if not module.name.startswith("_")]
    return sorted([*files, *SAME_FORMAT])


def open_provider(
    name: str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    dimensions: int | None = None,
    concurrency: int = 8,
    http_client: Any = None,
    **options: Any,
) -> Provider:
    """The provider of `"provider:model"` (the first colon splits) or of `"local"`.

    `options` are those of that provider: for `openai:`, `ollama:` and `tei:` they are `allow_http` (True: send key
    and texts unencrypted to a server that is not on this machine), `encoding` ("base64" or "float": ask for vectors
    in that form; None finds out what the server speaks), `max_tokens_per_text` (what its model takes), `normalize`
    (True: scale each vector to length 1; None keeps them, and tells once where they are of another length) and `record`
    (a folder for replies that are refused or broken).

    Nothing is read or sent, but the provider's environment variables. Raises ConfigError for an unknown
    provider, a missing key, or an option that it cannot take.
    """
    prefix, _, model = name.partition(":")
    known = prefixes()
    if prefix not in known:
        raise ConfigError(
            f"{prefix!r} is not a provider; known are {', '.join(known)} (as in openai:text-embedding-3-small)"
        )
    if not model.strip() and prefix not in _WITHOUT_MODEL:
        raise ConfigError(f"{name!r} names no model; it looks like {prefix}:MODEL")
    module = import_module(f"aembed.providers.{SAME_FORMAT.get(prefix, prefix).replace('-', '_')}")
    _check(prefix, options, module.OPTIONS)
    provider: Provider = module.open_provider(
        prefix,
        model.strip(),
        api_key=api_key,
        base_url=base_url,
        dimensions=dimensions_of(dimensions),
        concurrency=concurrency,
        http_client=http_client,
        **options,
    )
    return provider


def _check(prefix: str, options: Mapping[str, Any], taken: Mapping[str, str]) -> None:
    """`taken` has the options of that provider, each with the values that it may have."""
    for name in options:
        if name not in taken:
            known = "; ".join(f"{known}={values}" for known, values in taken.items())
            raise ConfigError(f"{prefix}: has no option {name!r}; it takes {known or 'none'}")

"""The services that make vectors: one file per wire format, named by the prefix that users type.

A package may bring providers of its own, by the entry point group `aembed.providers`: each is the prefix and a callable
that is called as `open_provider` calls those here, with a model and keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from aembed.errors import ConfigError
from aembed.options import Key
from aembed.protocols import Provider
from aembed.ranges import dimensions_of, one_line_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from aembed.providers._models import Model
    from aembed.providers._options import ProviderOptions
    from aembed.providers._provider import HTTPProvider
    from aembed.providers._service import Service

__all__ = ["HTTPProvider", "Model", "Service", "open_provider", "prefixes", "provider_of"]

ENTRY_POINTS = "aembed.providers"
"""The group of the entry points."""
_WITHOUT_MODEL = frozenset({"local"})
_WHERE = {"HTTPProvider": "_provider", "Model": "_models", "Service": "_service"}


def __getattr__(name: str) -> Any:
    # What brings httpx and numpy along is imported once it is used.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def prefixes() -> list[str]:
    """Every prefix that `open_provider` knows: files of this folder, rows, and those that other packages bring."""
    from aembed.providers._rows import ROWS

    return sorted({*_files(), *ROWS, *(point.name for point in _entry_points())})


@overload
def open_provider(name: Literal["local"], *, concurrency: int = 8) -> Provider: ...


@overload
def open_provider(
    name: str,
    *,
    api_key: Key | Sequence[Key] = None,
    base_url: str | Sequence[str] | None = None,
    dimensions: int | None = None,
    concurrency: int = 8,
    http_client: Any = None,
    **options: Unpack[ProviderOptions],
) -> Provider: ...


def open_provider(
    name: str,
    *,
    api_key: Key | Sequence[Key] = None,
    base_url: str | Sequence[str] | None = None,
    dimensions: int | None = None,
    concurrency: int = 8,
    http_client: Any = None,
    **options: Any,
) -> Provider:
    """The provider of `"provider:model"` (the first colon splits) or of `"local"`.

    `options` are those of that provider. Those that are reached over HTTP take `allow_http` (True: send key
    and texts unencrypted to a server that is not on this machine), `encoding` ("base64" or "float": ask for vectors
    in that form; None finds out what the server speaks), `extra_body` and `headers` (further fields and headers of each
    request), `max_tokens_per_text` (what its model takes), `normalize` (True: scale each vector to length 1; None keeps
    them, and tells once where they are of another length), `record` (a folder for replies that are refused or broken)
    and `truncate` (True: the service may cut a text that is too long for it, where it can be told; else it is asked to
    refuse it). In the place of what the model is known to want stand `document_prefix` and `query_prefix` (what is put
    before each text; "" for nothing) and `input_types` (the service's own words for documents and queries, as
    "passage,query"; "" sends none). `api_key` may be an async callable that gives a token, which is called again once
    that was refused. `deployment` and `api_version` are options of azure: alone, `region` is one of bedrock:, `pooling`
    and `threads` are those of fastembed:.

    `base_url` may be a list of addresses that serve the same model (regional deployments, two GPUs): each has
    `concurrency` requests, limits and outages of its own, and what one refuses goes to another. `api_key` is then one
    for all of them, or a list with one for each.

    Nothing is read or sent, but the provider's environment variables. Raises ConfigError for an unknown
    provider, a missing key, or an option that it cannot take.
    """
    prefix, _, model = name.partition(":")
    if not model.strip() and prefix not in _WITHOUT_MODEL and prefix in prefixes():
        raise ConfigError(f"{name!r} names no model; it looks like {prefix}:MODEL")
    opened, dimensions = _opener(prefix, options), dimensions_of(dimensions)

    def open_one(base_url: str | None, api_key: Key) -> Provider:
        provider: Provider = opened(
            model.strip(),
            api_key=api_key,
            base_url=base_url,
            dimensions=dimensions,
            concurrency=concurrency,
            http_client=http_client,
            **options,
        )
        return provider

    if base_url is None or isinstance(base_url, str):
        if api_key is not None and not isinstance(api_key, str) and not callable(api_key):
            raise ConfigError("api_key may be a list where base_url is one: give one key, as a str")
        return open_one(base_url, api_key)
    from aembed.providers._address_pool import open_addresses

    return open_addresses(open_one, base_url, api_key)


def provider_of(model: object, own: Mapping[str, Any], concurrency: int) -> Provider:
    """`own` are the options that a provider has a part in. Raises ConfigError before any I/O."""
    given = {name: value for name, value in own.items() if value is not None}
    if not isinstance(model, str):
        if not isinstance(model, Provider):
            raise ConfigError(
                f"model={one_line_of(model)} must be a str, as openai:text-embedding-3-small, or an object "
                "with all that aembed.Provider has"
            )
        if given:
            raise ConfigError(f"{next(iter(given))}= is for a model that is named by a str; give it to the provider")
        return model
    if not isinstance(given.get("base_url", ""), str | list | tuple):
        raise ConfigError(f"base_url must be a str, not {type(given['base_url']).__name__}, or a list of them")
    key = given.get("api_key", "")
    for each in key if isinstance(key, list | tuple) else [key]:
        if not isinstance(each, str) and not callable(each):
            raise ConfigError(f"api_key must be a str or an async callable, not {type(each).__name__}")
    client = given.get("http_client")
    if client is not None and not (hasattr(client, "build_request") and hasattr(client, "aclose")):
        raise ConfigError(f"http_client must be an AsyncClient of httpx or httpx2, not {type(client).__name__}")
    return open_provider(str.__str__(model), **given, concurrency=concurrency)


def _opener(prefix: str, options: Mapping[str, Any]) -> Callable[..., Provider]:
    from aembed.providers._rows import ROWS

    has_file = prefix in _files()
    if has_file or prefix in ROWS:
        module = import_module(f"{__name__}.{prefix.replace('-', '_') if has_file else 'openai'}")
        taken: Mapping[str, str] = module.OPTIONS
        for name in options:
            if name not in taken:
                known = "; ".join(f"{known}={values}" for known, values in taken.items())
                raise ConfigError(f"{prefix}: has no option {name!r}; it takes {known or 'none'}")
        return partial(module.open_provider, prefix)
    found = [point for point in _entry_points() if point.name == prefix]
    if not found:
        known = ", ".join(prefixes())
        raise ConfigError(f"{prefix!r} is not a provider; known are {known} (as in openai:text-embedding-3-small)")
    try:
        loaded: Callable[..., Provider] = found[0].load()
    except Exception as error:
        raise ConfigError(f"{prefix}: is brought by {found[0].value}, which cannot be imported: {error}") from error
    return loaded


def _entry_points() -> Sequence[EntryPoint]:
    # Imported here: it takes 19 ms, a twentieth of `import aembed`, and reads what is installed.
    from importlib.metadata import entry_points

    return [*entry_points(group=ENTRY_POINTS)]


def _files() -> Sequence[str]:
    return [module.name.replace("_", "-") for module in iter_modules(__path__) if not module.name.startswith("_")]

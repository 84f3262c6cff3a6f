"""Where rows are kept: one file per store, named by the scheme of its URLs."""

from __future__ import annotations

import os
import pkgutil
import re
from importlib import import_module

from aembed.errors import ConfigError
from aembed.protocols import Store

ALIASES = {"postgres": "postgresql"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")


def schemes() -> list[str]:
    """The URL schemes that can be opened: `sqlite`, `memory` ..."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if "_" not in name)


def open_store(url: str | os.PathLike[str]) -> Store:
    """The store at a URL, or at the path of a SQLite file: `notes.db`, `sqlite:///notes.db`, `memory:`.

    Nothing is opened or created yet. Raises ConfigError for a scheme that is not known.
    """
    module = _module(url) if isinstance(url, str) else "sqlite"
    store: Store = import_module(f"aembed.stores.{module}").open_url(os.fspath(url))
    return store


def _module(url: str) -> str:
    scheme, colon, _ = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return "sqlite"
    name = scheme.lower().partition("+")[0]
    name = ALIASES.get(name, name)
    if name not in schemes():
        raise ConfigError(
            f"{scheme}: is not a known kind of store; known are {', '.join(schemes())}, "
            "and a file whose name holds a colon is written sqlite:///NAME"
        )
    return name

"""The services as scripted servers: one file each, found by this folder.

Each decodes a request as that service does and answers with its shape, its headers and its words. What they know of a
service is written down here again, and taken from nowhere in aembed: they are to judge it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from tests.providers.services._scripted import ScriptedService

__all__ = ["ScriptedService", "services"]


def services() -> Iterator[type[ScriptedService]]:
    """Every class of the files here whose name does not begin with an underscore."""
    for found in iter_modules(__path__):
        if not found.name.startswith("_"):
            module = import_module(f"{__name__}.{found.name}")
            for thing in vars(module).values():
                if (
                    isinstance(thing, type)
                    and issubclass(thing, ScriptedService)
                    and thing.__module__ == module.__name__
                ):
                    yield thing

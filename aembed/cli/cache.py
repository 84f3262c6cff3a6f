"""`aembed cache`: how many vectors a cache holds, and the removal of old ones."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from aembed.cli import _flags as flags
from aembed.cli._run import OK, run
from aembed.cli._show import printable_place, tell_json
from aembed.cli._streams import tell
from aembed.errors import ConfigError
from aembed.results import count_in_words
from aembed.stores import open_cache

SECONDS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_AGE = re.compile(r"(\d{1,9})([smhd])")


def cache(
    *,
    place: flags.CachePlace = None,
    prune: Annotated[
        str | None,
        typer.Option(metavar="AGE", show_default=False, help="Remove vectors that are older: 90d, 12h, 30m or 45s."),
    ] = None,
    as_json: flags.AsJSON = False,
) -> None:
    """Say how many vectors a cache holds, or remove old ones."""
    if not place:
        raise ConfigError("name the cache:  --cache cache.db  (or AEMBED_CACHE)")
    run(_cache(place, None if prune is None else _seconds(prune), as_json))


async def _cache(place: str, seconds: float | None, as_json: bool) -> int:
    opened = open_cache(place)
    try:
        if not await opened.prepare(create=False):
            raise ConfigError(f"{printable_place(place)} holds no cache yet; name another with --cache")
        removed = None if seconds is None else await opened.prune(seconds)
        held = await opened.count()
    finally:
        await opened.aclose()
    if as_json:
        tell_json({"vectors": held} | ({} if removed is None else {"removed": removed}))
    else:
        if removed is not None:
            tell(f"{count_in_words(removed, 'vector')} removed")
        tell(f"{count_in_words(held, 'vector')} in {printable_place(place)}")
    return OK


def _seconds(age: str) -> float:
    found = _AGE.fullmatch(age)
    if not found:
        raise ConfigError(f"--prune {age!r} is not an age; it looks like 90d, 12h, 30m or 45s")
    return int(found[1]) * SECONDS[found[2]]

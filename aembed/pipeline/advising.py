"""This module tells, once for each store, that its texts are not prepared as their model wants, and what to do."""

from __future__ import annotations

import logging
import shlex
from typing import Protocol, runtime_checkable

from aembed.preparation import Preparation, document_part
from aembed.types import Space

logger = logging.getLogger("aembed")


@runtime_checkable
class NamesItsWayOut(Protocol):
    """What a store or a column of aembed does besides: say which command makes its rows anew, or moves them."""

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...] | None:
        """The command that embeds its texts for this space beside it (`anew`), or that moves its rows there; None
        where no command can name it."""
        ...


class Advice:
    """What was told already, for the life of an Embedder."""

    def __init__(self) -> None:
        self._told = set[str]()

    def tell(self, store: object, wanted: Space) -> None:
        """Of a store without a preparation, whose model wants that of `wanted`."""
        # One that is opened for each call is another object each time.
        name = repr(store).strip("<>") if isinstance(store, NamesItsWayOut) else type(store).__name__
        key = name if isinstance(store, NamesItsWayOut) else f"{name} {id(store)}"
        if key in self._told:
            return
        self._told.add(key)
        preparation, anew = Preparation.parse(wanted.preparation), bool(document_part(wanted.preparation))
        command = store.command_for(wanted, anew=anew) if isinstance(store, NamesItsWayOut) else None
        options = ", ".join(f"{name}=" for name in preparation.options())
        logger.warning(
            "%s was filled without what %s is made for (%s), and goes on without it. %s:  %s",
            name,
            wanted.model,
            preparation.in_words(),
            "To embed its texts anew beside it" if anew else "To have it for its queries, while its rows stay",
            shlex.join(command)
            if command
            else f"give {options} to the provider, and {'embed_into(new_store, old_store)' if anew else 'move(store)'}",
        )

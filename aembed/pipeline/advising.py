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
        if (name := repr(store)) in self._told:
            return
        self._told.add(name)
        preparation = Preparation.parse(wanted.preparation)
        anew = bool(document_part(wanted.preparation))
        command = store.command_for(wanted, anew=anew) if isinstance(store, NamesItsWayOut) else None
        if anew:
            remedy = "better vectors come with a new one beside it"
        else:
            remedy = "its rows are good as they are, and better found once it knows the prefix of queries"
        options = ", ".join(f"{name}=" for name in preparation.options())
        logger.warning(
            "%s: its texts were embedded without what %s is made for (%s), and so are its further texts and its "
            "queries; %s:  %s",
            name.strip("<>"),
            wanted.model,
            preparation.in_words(),
            remedy,
            shlex.join(command) if command else f"give {options} to the provider, and embed_into(new_store, old_store)",
        )

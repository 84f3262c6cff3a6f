"""This module decides how the texts of a store, or of calls without one, are prepared.

asked for by options ----------------> that and no other: SpaceMismatchError for a store that holds something else
nothing asked for -+- a store that holds rows ---> its own, or none; one warning where the model wants another
                   +- rows of another store ----> as those were made: a copy is not bought again
                   +- a store that is new, -----> what the model wants
                      or no store at all
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from typing import Protocol, runtime_checkable

from aembed.core.spaces import merge_spaces, settled_space
from aembed.errors import ConfigError, SpaceMismatchError
from aembed.pipeline.store_calls import await_store
from aembed.preparation import Preparation, document_part, kept_form
from aembed.protocols import Backlog, EmbedsPrepared, MovesColumn, Prepares, Provider, Store
from aembed.types import Space

logger = logging.getLogger("aembed")


@runtime_checkable
class NamesItsWayOut(Protocol):
    """What a store or a column of aembed does besides: say which command makes its rows anew, or moves them."""

    def command_for(self, asked: Space, *, anew: bool) -> tuple[str, ...] | None:
        """The command that embeds its texts for this space beside it (`anew`), or that moves its rows there; None
        where no command can name it."""
        ...


class Preparing:
    """For the life of an Embedder."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._prepares = provider if isinstance(provider, Prepares) else None
        self._asked: Space | None = None
        self._own = ""
        self._told = set[str]()

    @property
    def own(self) -> str:
        """What was asked for, else what the model wants; it is read for each query."""
        asked = self._provider.space
        if asked is not self._asked:
            self._asked, self._own = asked, kept_form(asked.preparation or self._wanted(None))
        return self._own

    def _wanted(self, carried: Space | None) -> str:
        """That of a store which is new. `carried` is the space of rows that come from another one."""
        # A copy of a store is not bought again.
        if carried and merge_spaces(carried, self._provider.space):
            return kept_form(carried.preparation)
        return str(self._prepares.preparation) if self._prepares else ""

    async def prepare(self, store: Store | Backlog, asked: Space, carried: Space | None) -> Space:
        """The space of the store, which agrees to it. Raises SpaceMismatchError, or ConfigError where the provider
        does not know how to ask for what the store's preparation says."""
        wanted = "" if asked.preparation else self._wanted(carried)
        space: Space | None = None
        # Whether what is there was prepared in a way that is known, now and next time: not in a column that holds
        # vectors of which nothing is known, nor in one of a kind of its own.
        keeps = isinstance(store, Store)
        if wanted and isinstance(store, MovesColumn):
            keeps = bool(await await_store(store.space()) or not await await_store(store.sample(1)))
        if wanted and keeps:
            try:
                space = await await_store(store.prepare(replace(asked, preparation=wanted)))
            except SpaceMismatchError:
                space = None  # it holds rows that were made otherwise, or of another model
        if space is None:
            space = await await_store(store.prepare(asked))
        self.checked(space)
        return space

    def planned(self, held: Space | None, asked: Space, carried: Space | None) -> Space:
        """What `prepare` would give for a store that holds that space."""
        if held is None:
            return settled_space(replace(asked, preparation=asked.preparation or self._wanted(carried)))
        return merge_spaces(held, asked) or asked

    def checked(self, space: Space) -> Preparation:
        """That of the space. Raises ConfigError where the provider does not know how to ask for what it says."""
        preparation = Preparation.parse(space.preparation)
        asks = preparation.asks("document") or preparation.asks("query")
        if asks and not isinstance(self._provider, EmbedsPrepared):
            raise ConfigError(
                f"{type(self._provider).__name__} has no embed_prepared, and so cannot ask for what the vectors of "
                f"{space} are made by"
            )
        return preparation

    def note(self, store: Store | Backlog, space: Space) -> None:
        """Tells once of a store whose texts are not prepared as its model wants, and what to do."""
        asked = self._provider.space
        if space.preparation or asked.preparation:
            return
        wanted = self._wanted(None)
        # An arithmetic is nobody's choice, and needs no advice.
        preparation, anew = Preparation.parse(wanted), bool(document_part(wanted))
        if not wanted or not replace(preparation, arithmetic=""):
            return
        # One that is opened for each call is another object each time.
        name = repr(store).strip("<>") if isinstance(store, NamesItsWayOut) else type(store).__name__
        key = name if isinstance(store, NamesItsWayOut) else f"{name} {id(store)}"
        if key in self._told:
            return
        self._told.add(key)
        target = replace(space, preparation=wanted)
        command = store.command_for(target, anew=anew) if isinstance(store, NamesItsWayOut) else None
        options = ", ".join(f"{name}=" for name in preparation.options())
        remedy = "To embed its texts anew beside it" if anew else "To have it for its queries, while its rows stay"
        if any(word.startswith("postgresql:") for word in command or ()):
            remedy += " (with your user and password in the URLs)"
        logger.warning(
            "%s was filled without what %s is made for (%s), and goes on without it. %s:  %s",
            name,
            space.model,
            preparation.in_words(),
            remedy,
            shlex.join(command)
            if command
            else f"give {options} to the provider, and {'embed_into(new_store, old_store)' if anew else 'move(store)'}",
        )

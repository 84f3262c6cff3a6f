"""This module decides which vectors may stand beside each other in one store."""

from __future__ import annotations

from dataclasses import replace

from aembed.core.addresses import is_same_place
from aembed.types import Space

# 11434 is the port of Ollama by default; 8080 is the one on which text-embeddings-inference is published by habit.
LOCAL_SERVERS = {"ollama": "http://localhost:11434/v1", "tei": "http://localhost:8080/v1"}
"""Where a provider's own server is that runs on this machine: what the endpoint "" stands for."""


def merge_spaces(held: Space | None, asked: Space) -> Space | None:
    """The space that both describe, with the dimensions that either of them knows; None if they differ."""
    # Law 6: what can be refused is refused before money is spent; a store of another model is.
    if held is None:
        return asked
    if (held.provider, held.model) != (asked.provider, asked.model) or not is_same_place(_place(held), _place(asked)):
        return None
    if None not in (held.dimensions, asked.dimensions) and held.dimensions != asked.dimensions:
        return None
    return replace(asked, dimensions=asked.dimensions or held.dimensions, origin=held.origin)


def space_after_move(held: Space, asked: Space) -> Space:
    """`asked`, whose vectors are the same, in the place of `held`: the fingerprints of the rows stay what they are."""
    origin = held.origin or f"{held.provider}:{held.model}"
    if origin == f"{asked.provider}:{asked.model}":
        origin = ""
    return replace(asked, dimensions=asked.dimensions or held.dimensions, origin=origin)


def is_still(held: Space, prepared: Space) -> bool:
    """Whether vectors of the model that was prepared for may be written where this space is held: it may have moved."""
    name = f"{prepared.provider}:{prepared.model}"
    return name in (f"{held.provider}:{held.model}", held.origin)


def _place(space: Space) -> str:
    return space.endpoint or LOCAL_SERVERS.get(space.provider, "")


def is_same_model(one: str, other: str) -> bool:
    """Whether two names in replies mean one model: routers write them with and without a vendor, in any case."""
    (vendor, _, name), (other_vendor, _, other_name) = (model.casefold().rpartition("/") for model in (one, other))
    return name == other_name and (vendor == other_vendor or not (vendor and other_vendor))

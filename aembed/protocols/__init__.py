"""What an edge must do. An edge satisfies these by its shape; it inherits nothing."""

from aembed.protocols.columns import Backlog, Looks, MovesColumn, Reclaims, Refusals, Shares, Watched
from aembed.protocols.providers import (
    EmbedsAlike,
    EmbedsPrepared,
    FollowsStores,
    HasAddresses,
    HasTokenizer,
    Learns,
    Prepares,
    Provider,
    SignsAccount,
    TokenCounter,
)
from aembed.protocols.stores import Accounts, KeepsModel, Leases, Moves, ReadsRows, RemembersFiles, SearchesWords, Store

__all__ = [
    "Accounts",
    "Backlog",
    "EmbedsAlike",
    "EmbedsPrepared",
    "FollowsStores",
    "HasAddresses",
    "HasTokenizer",
    "KeepsModel",
    "Learns",
    "Leases",
    "Looks",
    "Moves",
    "MovesColumn",
    "Prepares",
    "Provider",
    "ReadsRows",
    "Reclaims",
    "Refusals",
    "RemembersFiles",
    "SearchesWords",
    "Shares",
    "SignsAccount",
    "Store",
    "TokenCounter",
    "Watched",
]

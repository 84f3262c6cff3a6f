"""The command with several servers of one model: `--base-url` once for each."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from tests.cli.command import Ran, aembed, notes, write_jsonl
from tests.cli.test_advice import KEY, OPENAI, advised
from tests.service.server import Server


async def test_a_store_of_two_servers_is_gone_on_with_by_one_of_them_and_searched_unasked(tmp_path: Path) -> None:
    """Both servers are this machine, so the search needs no address."""
    write_jsonl(tmp_path / "a.jsonl", notes(300))
    async with Server() as one, Server() as other, Server() as stranger:

        def steps() -> tuple[Ran, ...]:
            index = ("index", "a.jsonl", *OPENAI, "--max-batch-size", "20", "--json")
            both = ("--base-url", one.url, "--base-url", other.url)
            return (
                aembed(tmp_path, *index, *both, env=KEY),
                aembed(tmp_path, *index, "--base-url", other.url, env=KEY),
                aembed(tmp_path, "search", "this is note number 7", "--json", env=KEY),
                aembed(tmp_path, *index, "--base-url", stranger.url, "--base-url", f"{stranger.root}/v2", env=KEY),
            )

        first, again, search, refused = await anyio.to_thread.run_sync(steps)
        assert (first.code, first.json["stored"]) == (0, 300), first.err
        assert (again.code, again.json["unchanged"]) == (0, 300), again.err
        assert (search.code, search.json["matches"][0]["id"]) == (0, "n7"), search.err
        assert one.ledger.accepted > 1
        assert other.ledger.accepted > 1
        assert sum(sum(server.ledger.times_billed.values()) for server in (one, other)) == 301
        assert (refused.code, stranger.ledger.requests) == (2, 0)
        assert advised(refused.err).count("--base-url") == 2

from __future__ import annotations

from pathlib import Path

from tests.cli.command import aembed, notes, write_jsonl

INDEX = ("index", "a.jsonl", "-m", "fake:x", "--quiet", "--json")


def test_two_stores_share_what_one_has_bought(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", notes(6))
    cached = {"AEMBED_CACHE": "cache.db"}
    first = aembed(tmp_path, *INDEX, "--store", "one.db", "--cache", "cache.db").json
    assert (first["stored"], first["requests"]) == (6, 1)
    planned = aembed(tmp_path, *INDEX, "--store", "two.db", "--dry-run", env=cached).json
    assert (planned["new"], planned["requests"]) == (6, 0)
    second = aembed(tmp_path, *INDEX, "--store", "two.db", env=cached).json
    assert (second["stored"], second["requests"], second["billed_tokens"]) == (6, 0, 0)
    shown = aembed(tmp_path, "cache", env=cached)
    assert (shown.code, shown.out) == (0, "6 vectors in cache.db\n")
    kept = aembed(tmp_path, "cache", "--cache", "cache.db", "--prune", "1d", "--json")
    assert kept.json == {"vectors": 6, "removed": 0}
    pruned = aembed(tmp_path, "cache", "--cache", "cache.db", "--prune", "0s")
    assert (pruned.code, pruned.out) == (0, "6 vectors removed\n0 vectors in cache.db\n")


def test_a_cache_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for arguments, words in (
        ((), "name the cache:  --cache cache.db"),
        (("--cache", "no.db"), "no.db holds no cache yet"),
        (("--cache", "no.db", "--prune", "90"), "--prune '90' is not an age"),
        (("--cache", "memory:"), "memory: cannot hold a cache"),
    ):
        ran = aembed(tmp_path, "cache", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert words in ran.err
    assert list(tmp_path.iterdir()) == []

"""How every store finds rows by exact names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed.errors import ConfigError, InputError, SpaceMismatchError
from aembed.protocols import SearchesWords, Store
from aembed.stores import open_store, schemes
from aembed.types import Match, Metadata, Rows
from tests.stores.samples import SPACE, NewPlace, rows, unit

QUERY = unit(1, 0, 0, 0)


def texts(given: Sequence[str], *, matrix: Any = None, metadata: Sequence[Metadata | None] | None = None) -> Rows:
    """Rows 0, 1, 2 ... with these texts, farther from QUERY from one to the next."""
    if matrix is None:
        matrix = np.array([[1, i, 0, 0] for i in range(len(given))], dtype=np.float32)
    return replace(rows([f"{i:03d}" for i in range(len(given))], matrix, metadata=metadata), texts=list(given))


@pytest.fixture(params=schemes())
async def store(request: pytest.FixtureRequest, tmp_path: Path, new_place: NewPlace) -> Any:
    store = open_store(new_place(request.param, tmp_path))
    await store.prepare(SPACE)
    yield store
    await store.aclose()


async def found(store: Store, question: str, k: int = 10, where: Metadata | None = None) -> list[Match]:
    assert isinstance(store, SearchesWords)
    await store.prepare_words()
    return await store.search_words(question, QUERY, k, where=where)


async def ids(store: Store, question: str) -> list[int]:
    return [int(match.id) for match in await found(store, question)]


NAMES = (
    "The option `--batch-size` sets how many.",  # 0
    "max_tokens_per_batch is an int",  # 1
    "raises asyncpg.exceptions.TooManyConnectionsError where",  # 2
    "The server answers HTTP 429, and then",  # 3
    "fails with E2BIG.",  # 4
    "call os.path.join(a, b) here",  # 5
    "see https://example.org/a/b?c=d#e_f",  # 6
    "a <tag attr='x'>and &amp; entity</tag>, 1e5, v1.2.3-rc.1, name@example.com",  # 7
    "batch of a size, max tokens, per batch",  # 8
    "Der Schlüssel ÄNDERT sich",  # 9
    "429 sheep",  # 10
    "naïve café",  # 11
)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("--batch-size", [0]),
        ("What is --batch-size=32 for?", [0]),
        ("batch_size", [0]),
        ("BATCH-SIZE", [0]),
        ("What does `max_tokens_per_batch` do?", [1]),
        ("asyncpg.exceptions.TooManyConnectionsError", [2]),
        ("toomanyconnectionserror", [2]),
        ("other.TooManyConnectionsError", [2]),
        ("HTTP 429", [3]),
        ("error 429", [3, 10]),
        ("e2big!", [4]),
        ("os.path.join()", [5]),
        ("os.path", [5]),
        ("example.org/a/b", [6]),
        ("<tag", [7]),
        ("&amp;", [7]),
        ("v1.2.3-rc.1", [7]),
        ("name@example.com", [7]),
        ("schlüssel ÄNDERT", [9]),
        ("café", [11]),
        ("cafe", []),
        ("max-tokens", [1, 8]),
        ("tokens_max", []),
        ("nothing but that", []),
        ("", []),
    ],
)
async def test_a_name_is_found_as_it_is_typed(store: Store, question: str, expected: list[int]) -> None:
    # Enough others that a word in three rows is rare, and the words around the names are not.
    await store.write(texts([*NAMES, *(f"what is that for, does it do an error{i}, other error" for i in range(60))]))
    assert sorted(await ids(store, question)) == expected


@pytest.mark.parametrize(
    "question",
    [
        '" OR text:* NEAR(a b) NOT',
        "' & !:* <-> |  ) (",
        "{index} {0} %s $1",
        "a\0b --\0 \ud800",
        "x" * 5_000,
        "'); DROP TABLE aembed_rows; --",
        " ".join(f"word_{i}" for i in range(2_000)),
    ],
    ids=lambda question: question[:12].encode("ascii", "backslashreplace").decode(),
)
async def test_t21_what_is_typed_is_read_as_words_alone(store: Store, question: str) -> None:
    await store.write(texts([*NAMES, *(f"what is that for, does it do an error{i}, other error" for i in range(60))]))
    assert await ids(store, question) == []
    assert await ids(store, f"{question} asyncpg.exceptions.TooManyConnectionsError") == [2]


async def test_a_word_of_many_rows_is_not_looked_up(store: Store) -> None:
    await store.write(texts([f"common word{i}" + (" fourfold" if i < 4 else "") for i in range(800)]))
    assert await ids(store, "common") == []
    assert await ids(store, "fourfold") == [0, 1, 2, 3]
    await store.delete([f"{i:03d}" for i in range(799, 700, -1)])
    assert await ids(store, "fourfold") == []


async def test_a_name_of_common_words_is_found_as_it_is_written(store: Store) -> None:
    given = [f"all of word{i}" for i in range(200)]
    given[7], given[8], given[9] = "the option --all.", "the option --all-files", "the option --ALL, too"
    await store.write(texts(given))
    assert await ids(store, "What does --all do?") == [7, 9]
    assert await ids(store, "What does -all do?") == []
    assert await ids(store, "all") == []


async def test_the_rarer_name_comes_first_and_of_equals_the_nearer_row(store: Store) -> None:
    given = [f"filler{i}" for i in range(100)]
    given[10], given[5], given[20] = "alpha two", "alpha one", "beta"
    given[30] = "alpha gamma"
    await store.write(texts(given))
    matches = await found(store, "alpha beta")
    assert [match.id for match in matches] == ["020", "005", "010", "030"]
    cosines = [match.score for match in matches]
    assert cosines == pytest.approx([1 / (1 + i * i) ** 0.5 for i in (20, 5, 10, 30)])
    assert [match.id for match in await found(store, "alpha beta", k=2)] == ["020", "005"]
    assert [match.id for match in await found(store, "alpha gamma")] == ["030", "005", "010"]
    near = {match.id: match.score for match in await store.search(QUERY, 100)}
    assert cosines == [near[match.id] for match in matches]


async def test_where_is_kept_to(store: Store) -> None:
    given, metadata = [f"filler{i}" for i in range(40)], [{"n": i} for i in range(40)]
    given[3] = given[4] = "the exactname"
    await store.write(texts(given, metadata=metadata))
    assert [match.metadata for match in await found(store, "exactname", where={"n": 4})] == [{"n": 4}]
    assert await found(store, "exactname", where={"n": 5}) == []
    assert [match.metadata for match in await found(store, "exactname", where={"n": {"lt": 4}})] == [{"n": 3}]
    assert len(await found(store, "exactname", where={"n": [3, 4, 5]})) == 2
    assert len(await found(store, "exactname", where={"n": list(range(2_000))})) == 2
    with pytest.raises(ConfigError, match="'n'"):
        await found(store, "exactname", where={"n": b"1"})
    with pytest.raises(ConfigError, match="k=0"):
        await found(store, "exactname", k=0)


async def test_what_is_written_replaced_and_deleted_later_is_seen(store: Store) -> None:
    await store.write(texts([f"filler{i}" for i in range(30)]))
    assert await ids(store, "latecomer") == []
    await store.write(replace(rows(["100", "101"]), texts=["a latecomer", "another latecomer"]))
    assert sorted(await ids(store, "latecomer")) == [100, 101]
    await store.write(replace(rows(["100"]), texts=["gone from here"]))
    assert await ids(store, "latecomer") == [101]
    await store.delete(["101"])
    assert await ids(store, "latecomer") == []
    assert await ids(store, "gone") == [100]


async def test_a_store_without_rows_finds_nothing(tmp_path: Path, new_place: NewPlace, store: Store) -> None:
    assert await found(store, "anything") == []
    for scheme in schemes():
        new = open_store(new_place(scheme, tmp_path / "new"))
        assert await found(new, "anything") == []
        await new.aclose()


async def test_it_refuses_what_it_cannot_compare(store: Store) -> None:
    await store.write(texts(["one"]))
    await found(store, "one")
    assert isinstance(store, SearchesWords)
    with pytest.raises(SpaceMismatchError, match="4 dimensions; the query has 3"):
        await store.search_words("one", unit(1, 0, 0), 1)
    with pytest.raises(InputError, match="NaN"):
        await store.search_words("one", unit(1, 0, 0, np.nan), 1)

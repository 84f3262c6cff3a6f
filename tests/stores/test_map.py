"""A map: bounds that hold, integers' products that are exact, a file that is never taken for what it is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from aembed.stores._map import _products
from aembed.stores._map._codes import CodedQuery, Frame, encode_rows
from aembed.stores._map._file import MapError, MapId, MapWriter, RowMap
from aembed.stores._map._shortlist import shortlists
from aembed.stores._search import NearestQuery, SearchChunk, find_nearest
from aembed.types import Matrix, Vector
from tests.stores.vector_kinds import KINDS

ID = MapId(2**61 + 5, 7, 0)
NONE = np.empty(0, np.intp)


def written(path: Path, matrix: Matrix, frame: Frame | None = None, id: MapId = ID) -> MapId:
    """In pages of 100, with the numbers 10, 20, 30 and so on."""
    id = MapId(id.token, id.schema, matrix.shape[1])
    frame = frame or Frame.of_sample(matrix)
    writer = MapWriter(path, id, 10 * len(matrix), frame)
    for start in range(0, len(matrix), 100):
        some = matrix[start : start + 100]
        writer.add(10 * (1 + start + np.arange(len(some))), encode_rows(some, frame))
    writer.finish()
    return id


def cosines(matrix: Matrix, query: Vector) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    ids = [f"{i:05}" for i in range(len(matrix))]
    found = find_nearest(query, [SearchChunk.from_rows(ids, matrix)], len(ids))
    return np.array([score for _, score in sorted(found)])


def queries(kind: str, d: int) -> Matrix:
    random = np.random.default_rng(3)
    asked = np.concatenate([KINDS[kind](random, 4, d), KINDS["plain"](random, 2, d), KINDS["axes"](random, 1, d)])
    return asked[asked.any(axis=1)]


@pytest.mark.parametrize("d", [1, 3, 64, 1500])
@pytest.mark.parametrize("kind", KINDS)
def test_t24_every_cosine_is_within_its_bounds(kind: str, d: int) -> None:
    matrix = KINDS[kind](np.random.default_rng(d), 400, d)
    strange = Frame(np.linspace(-1, 1, d) / np.sqrt(d), 1.0 + np.arange(d) % 5)
    for frame in (Frame.of_sample(matrix), Frame.of_sample(KINDS["plain"](np.random.default_rng(1), 9, d)), strange):
        coded = encode_rows(matrix, frame)
        assert np.abs(coded.codes.astype(int)).max() <= 127
        for query in queries(kind, d):
            asked, true = CodedQuery.of(query, frame), cosines(matrix, query)
            products = _products.dots(coded.codes, asked.digits)
            least, most = asked.bounds(products[:, 0], coded.scales, coded.errors, coded.lengths)
            assert (least <= true).all()
            assert (true <= most).all()
            finer_least, finer_most = asked.finer_bounds(products, coded.scales, coded.errors, coded.lengths)
            assert (finer_least <= true).all()
            assert (true <= finer_most).all()


def test_t24_the_bounds_are_narrow_where_models_vectors_are_alike() -> None:
    random = np.random.default_rng(5)
    matrix, query = KINDS["of_one_direction"](random, 5_000, 256), KINDS["of_one_direction"](random, 1, 256)[0]
    frame = Frame.of_sample(matrix)
    coded, asked = encode_rows(matrix, frame), CodedQuery.of(query, frame)
    assert frame.code_count == 256 + 24, "one dimension is ten times as wide"
    products, columns = _products.dots(coded.codes, asked.digits), (coded.scales, coded.errors, coded.lengths)
    for (least, most), few in (
        (asked.bounds(products[:, 0], *columns), 600),
        (asked.finer_bounds(products, *columns), 60),
    ):
        assert (most >= np.sort(least)[-5]).sum() < few


def test_t24_rows_with_nan_or_infinity_have_no_codes() -> None:
    for value in (np.nan, np.inf):
        matrix = np.ones((3, 4), np.float32)
        matrix[1, 2] = value
        with pytest.raises(ValueError, match="NaN"):
            encode_rows(matrix, Frame.of_sample(np.ones((3, 4), np.float32)))


@pytest.mark.parametrize("d", [1, 31, 1024, 1025, 3072, 16_000])
@pytest.mark.parametrize("by", ["numpy", "library"])
def test_t24_products_are_exact(by: str, d: int) -> None:
    if by == "library":
        pytest.importorskip("simsimd")
        assert _products.is_by_library(d)
    product = _products._by_numpy if by == "numpy" else _products.dots
    rows = np.random.default_rng(d).choice(np.array([-127, -1, 0, 126, 127], np.int8), (300, d))
    rows[:3], rows[3:5] = 127, -127
    expected = rows.astype(np.int64) @ rows[:7].astype(np.int64).T
    assert np.array_equal(product(rows, rows[:7]), expected)


def test_t24_a_product_that_is_wrong_is_not_used() -> None:
    def narrow(rows: Matrix, vectors: Matrix) -> Matrix:
        return (rows.astype(np.int16) @ vectors.astype(np.int16).T).astype(np.float64)

    def failing(rows: Matrix, vectors: Matrix) -> Matrix:
        raise TypeError("another build")

    assert _products._is_right(_products._by_numpy, 100)
    assert not _products._is_right(narrow, 100)  # type: ignore[arg-type]
    assert not _products._is_right(failing, 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_t24_the_shortlist_has_all_of_the_best(
    kind: str, k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._map._shortlist._BLOCK_BYTES", 97 * 40)
    matrix = KINDS[kind](np.random.default_rng(1), 950, 40)
    mapped = RowMap.open(tmp_path / "map", written(tmp_path / "map", matrix))
    gone = np.array([0, 1, 96, 97, 500, 949])
    here = np.setdiff1d(np.arange(950), gone)
    asked = queries(kind, 40)
    coded = [CodedQuery.of(query, mapped.frame) for query in asked]
    for check in (True, False):
        for query, found in zip(asked, shortlists(mapped, coded, [k] * len(coded), gone, check=check), strict=True):
            true = cosines(matrix, query)
            assert set(np.flatnonzero(true >= np.sort(true[here])[::-1][:k][-1])) - set(gone) <= set(found.positions)
            assert not set(gone) & set(found.positions)
            assert (true[found.positions] <= found.most).all()
            others = np.setdiff1d(here, found.positions)
            assert (true[others] < found.rest).all()


def test_t24_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    matrix = KINDS["of_one_direction"](np.random.default_rng(1), 250, 33)
    id = written(tmp_path / "map", matrix)
    mapped, coded = RowMap.open(tmp_path / "map", id), encode_rows(matrix, Frame.of_sample(matrix))
    assert mapped.last == 2500
    assert mapped.rows.tolist() == list(range(10, 2510, 10))
    for name in ("codes", "scales", "errors", "lengths"):
        assert np.array_equal(getattr(mapped, name), getattr(coded, name))
    assert os.stat(tmp_path / "map").st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        written(tmp_path / "map", matrix)


def test_t24_an_empty_map(tmp_path: Path) -> None:
    id = written(tmp_path / "map", np.empty((0, 8), np.float32))
    mapped = RowMap.open(tmp_path / "map", id)
    asked = CodedQuery.of(np.ones(8, np.float32), mapped.frame)
    (found,) = shortlists(mapped, [asked], [3], NONE, check=True)
    assert (len(found.positions), found.rest) == (0, -np.inf)


@pytest.mark.parametrize(
    "other",
    [MapId(2**61 + 6, 7, 33), MapId(2**61 + 5, 8, 33), MapId(2**61 + 5, 7, 32)],
    ids=["token", "schema", "width"],
)
def test_t24_the_map_of_another_state_is_refused(other: MapId, tmp_path: Path) -> None:
    written(tmp_path / "map", KINDS["plain"](np.random.default_rng(1), 50, 33))
    with pytest.raises(MapError, match="another"):
        RowMap.open(tmp_path / "map", other)


def read_all(path: Path, id: MapId) -> None:
    mapped = RowMap.open(path, id)
    asked = CodedQuery.of(np.ones(id.dimensions, np.float32), mapped.frame)
    shortlists(mapped, [asked], [1], NONE, check=True)


@pytest.mark.parametrize("by", ["numpy", "library"])
def test_t24_one_bit_that_is_turned_over_anywhere_is_found(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "library":
        pytest.importorskip("simsimd")
    else:
        monkeypatch.setattr("aembed.stores._map._shortlist.dots", _products._by_numpy)
    path = tmp_path / "map"
    id = written(path, KINDS["of_one_direction"](np.random.default_rng(1), 60, 9))
    data = path.read_bytes()
    read_all(path, id)
    length = data.index(b"\n")
    for place in [*range(0, length, 3), *range(4096, len(data))]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises((MapError, ValueError)):
            read_all(path, id)


def test_t24_a_map_that_was_cut_or_has_grown_is_found(tmp_path: Path) -> None:
    path = tmp_path / "map"
    id = written(path, KINDS["plain"](np.random.default_rng(1), 60, 9))
    data = path.read_bytes()
    for size in [0, 1, 4095, 4096, 4097, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(MapError):
            RowMap.open(path, id)
    path.write_bytes(data + b"\0")
    with pytest.raises(MapError):
        RowMap.open(path, id)


def test_t24_a_map_that_is_cut_while_it_is_in_use_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "map"
    id = written(path, KINDS["plain"](np.random.default_rng(1), 60, 9))
    mapped = RowMap.open(path, id)
    mapped.check_size()
    os.truncate(path, 4096)
    with pytest.raises(MapError, match="cut"):
        mapped.check_size()


def test_t24_equal_vectors_score_the_same_alone_and_among_others() -> None:
    """The best are scored in other company than by a search that reads all rows."""
    from aembed.stores._search import Best

    for d in (1, 2, 7, 33, 384, 1536):
        matrix = KINDS["of_one_direction"](np.random.default_rng(d), 300, d)
        for query in queries("of_one_direction", d):
            true = cosines(matrix, query)
            for size in (1, 2, 3, 16, 300):
                best = Best(NearestQuery(query, 300), [])
                for start in range(0, 300, size):
                    best.add([f"{i:05}" for i in range(start, min(300, start + size))], matrix[start : start + size])
                assert np.array_equal([score for _, score in sorted(best.found())], true)


def test_t24_where_rows_of_a_map_are(tmp_path: Path) -> None:
    mapped = RowMap.open(tmp_path / "map", written(tmp_path / "map", KINDS["plain"](np.random.default_rng(1), 30, 9)))
    assert mapped.positions_of(np.array([300, 20, 15, 10, 20, 301, -5])).tolist() == [0, 1, 29]
    assert mapped.positions_of(np.empty(0, np.int64)).tolist() == []

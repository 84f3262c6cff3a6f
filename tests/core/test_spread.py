from __future__ import annotations

from aembed.core.spread import PARTS, SpreadDict


def test_it_holds_what_a_dict_holds_in_parts_of_one_size() -> None:
    keys = [f"text {number}" for number in range(100 * PARTS)]
    spread = SpreadDict[str, int]()
    spread.update((key, number) for number, key in enumerate(keys))
    spread.update([(keys[3], -3)])
    assert [spread.get(key) for key in keys[:5]] == [0, 1, 2, -3, 4]
    assert spread.get("another") is None
    sizes = list(spread.clear())
    assert sum(sizes) == len(keys)
    assert max(sizes) < 200
    assert spread.get(keys[0]) is None

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from aembed.core.filters import DEEPEST, MOST_TESTS, MOST_VALUES, parse_filter
from aembed.errors import ConfigError

ROW = {
    "lang": "en",
    "year": 2010,
    "price": 9.5,
    "draft": False,
    "gone": None,
    "tags": ["a", "b"],
    "author": {"name": "Ann", "born": 1950, "gte": 1, "a.b": {"$c": "deep"}},
    "a.b": "dotted",
    "$x": 1,
}


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (None, True),
        ({}, True),
        ({"lang": "en", "year": 2010}, True),
        ({"lang": "en", "year": 2011}, False),
        ({"lang": ["de", "en"]}, True),
        ({"lang": ("de", "fr")}, False),
        ({"lang": []}, False),
        ({"gone": ["x", None]}, True),
        ({"missing": [None]}, False),
        ({"lang": {"eq": "en"}}, True),
        ({"lang": {"ne": "en"}}, False),
        ({"missing": {"ne": "en"}}, True),
        ({"gone": {"ne": None}}, False),
        ({"missing": {"ne": None}}, True),
        ({"lang": {"in": ["en"], "nin": ["de"]}}, True),
        ({"lang": {"nin": ["de", "en"]}}, False),
        ({"lang": {"nin": []}}, True),
        ({"year": {"gte": 2010, "lt": 2011}}, True),
        ({"year": {"gt": 2010}}, False),
        ({"year": {"lte": 2009.5}}, False),
        ({"year": {"gte": "2000"}}, False),
        ({"lang": {"gte": "e", "lt": "f"}}, True),
        ({"lang": {"gt": 1}}, False),
        ({"draft": {"gte": 0}}, False),
        ({"draft": 0}, False),
        ({"gone": {"lt": 1}}, False),
        ({"tags": "a"}, False),
        ({"tags": {"ne": "a"}}, True),
        ({"author": {"has": {"name": ["Ann", "Bo"], "born": {"lt": 1960}}}}, True),
        ({"author": {"has": {"name": "Bo"}}}, False),
        ({"author": {"has": {"gte": 1}}}, True),
        ({"author": {"has": {"a.b": {"has": {"$c": "deep"}}}}}, True),
        ({"author": {"has": {"a": {"has": {"b": "deep"}}}}}, False),
        ({"author": {"has": {"died": {"ne": 1}}}}, True),
        ({"missing": {"has": {"died": {"ne": 1}}}}, False),
        ({"author": {"has": {}}}, True),
        ({"lang": {"has": {}}}, False),
        ({"tags": {"has": {"0": "a"}}}, False),
        ({"a.b": "dotted"}, True),
        ({"author.name": "Ann"}, False),
        ({"$x": 1.0}, True),
        (MappingProxyType({"year": MappingProxyType({"gte": 2000})}), True),
    ],
    ids=str,
)
def test_what_a_filter_lets_pass(where: Mapping[str, Any] | None, passes: bool) -> None:
    assert parse_filter(where).matches(ROW) is passes


def test_a_row_without_metadata_passes_what_asks_for_nothing_that_is_there() -> None:
    assert [parse_filter(where).matches(None) for where in ({}, {"a": {"ne": 1}}, {"a": None})] == [True, True, False]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (["page"], "where must be a mapping of keys to values, not list"),
        ({1: 2}, r"where\[1\]: a key must be a str, not int"),
        (
            {"a": b"bytes"},
            r"where\['a'\] must be a str, .* not bytes; a list means any of its values, and a mapping holds",
        ),
        ({"a": {1, 2}}, r"where\['a'\] must be .* not set"),
        ({"a": [[1]]}, r"where\['a'\] must be .* not list"),
        ({"a": 2**63}, "must be a str, a finite number of at most 64 bits"),
        ({"a": float("inf")}, "must be a str, a finite number"),
        ({"a": {"in": [float("nan")]}}, r"where\['a'\]\['in'\] must be a str, a finite number"),
        ({"a": {"in": "en"}}, r"where\['a'\]\['in'\] must be a list of values, not str"),
        ({"a": {"eq": [1]}}, r"where\['a'\]\['eq'\] must be a str"),
        ({"a": {"gte": None}}, r"where\['a'\]\['gte'\] must be a number or a str, not None"),
        ({"a": {"lt": True}}, r"where\['a'\]\['lt'\] must be a number or a str, not True"),
        ({"a": {"lt": [1]}}, r"where\['a'\]\['lt'\] must be a str, a finite number"),
        ({"a": {}}, r"where\['a'\] is an empty mapping; .* eq, ne, in, nin, gt, gte, lt, lte, has"),
        ({"a": {"$gte": 1}}, r"where\['a'\]: '\$gte' is no operator; write 'gte', without the \$"),
        ({"a": {"b": 1}}, r"where\['a'\]: 'b' is no operator; .* A key inside .* {'has': {'b': \.\.\.}}"),
        ({"a": {"gte": 1, "b": 1}}, r"where\['a'\]: 'b' is no operator"),
        ({"a": {1: 1}}, r"where\['a'\]: 1 is no operator"),
        ({"a": {"has": 1}}, r"where\['a'\]\['has'\] must be a mapping of keys to values, not int"),
        ({"a": {"has": {"b": {"c": 1}}}}, r"where\['a'\]\['has'\]\['b'\]: 'c' is no operator"),
        ({"a": "\ud800"}, r"where\['a'\] holds a lone surrogate"),
        ({"\ud800": 1}, "holds a lone surrogate"),
        ({"a": list(range(MOST_VALUES + 1))}, "where holds 10,001 values; the most is 10,000"),
        ({str(n): 1 for n in range(MOST_TESTS + 1)}, "where holds 101 conditions; the most is 100"),
    ],
)
def test_t22_what_is_no_filter_is_refused_by_the_name_of_its_key(where: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_filter(where)


def test_how_deep_keys_may_be_has_a_bound() -> None:
    where: dict[str, Any] = {"k": 1}
    for _ in range(DEEPEST - 1):
        where = {"k": {"has": where}}
    parse_filter(where)
    with pytest.raises(ConfigError, match="is more than 16 keys deep"):
        parse_filter({"k": {"has": where}})

"""The figures of the documentation are those that the scripts kept."""

from __future__ import annotations

import re

from benchmarks import summary


def test_the_figures_are_those_of_the_results() -> None:
    page = summary.PAGE.read_text(encoding="utf-8")
    assert page == summary.written(page), "python -m benchmarks.summary --write"
    assert set(re.findall(r"<!-- results: (\w+) -->", page)) == {*summary.TABLES, "bars"}

"""The floors of the package: imports run from higher floors to lower ones only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "aembed"
FLOORS = {
    "errors": 0,
    "ranges": 0,
    "types": 0,
    "limits": 0,
    "preparation": 0,
    "results": 0,
    "protocols": 0,
    "events": 0,
    "batch_protocols": 0,
    "options": 0,
    "core": 1,
    "counters": 2,
    "sources": 2,
    "providers": 2,
    "stores": 2,
    "dispatch": 3,
    "pipeline": 4,
    "coalesce": 4,
    "engine": 5,
    "engines": 6,
    "batching": 6,
    "backfills": 7,
    "query_verbs": 7,
    "embedder": 8,
    "script": 9,
    "cli": 9,
    "integrations": 9,
    "testing": 9,
    "progress_bar": 10,
    "__init__": 11,
    "__main__": 11,
}
ONLY_IMPORTER = {
    "httpx": "providers._http",
    "httpcore": "providers._http",
    "h11": "providers._http",
    "asyncpg": "stores._postgresql",
    "opentelemetry": "integrations.otel",
    "tiktoken": "counters",
    "kreuzberg": "sources._office_process",
    "turbohtml": "sources.html",
}
IMPURE = {"asyncio", "anyio", "time", "random", "os", "socket", "threading", "httpx", "sqlite3", "pathlib"}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def imports(path: Path) -> Sequence[str]:
    names = list[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def unit(name: str) -> str:
    """The floor's unit that a module belongs to: `stores.sqlite` and `stores.memory` are siblings."""
    return name.split(".")[0]


def own_imports(path: Path) -> Iterator[str]:
    for name in imports(path):
        if name.startswith("aembed."):
            yield name.removeprefix("aembed.")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_downwards(path: Path) -> None:
    here = module_name(path)
    for name in own_imports(path):
        there = unit(name)
        if there not in FLOORS:
            assert unit(here) in {"cli", "__main__"}, f"{here} imports {name} from the top of the package"
        elif there == unit(here):
            assert FLOORS[there] != 2 or is_shared(name) or here.endswith("__init__"), f"{here} imports {name}"
        else:
            assert FLOORS[there] < FLOORS[unit(here)] or FLOORS[there] == 0, f"{here} imports {name}"


def test_no_imports_go_in_a_circle() -> None:
    """Those for type checkers alone, and those inside functions, count too. Raises CycleError, which names one."""
    modules = {module_name(path).removesuffix(".__init__"): path for path in FILES}

    def module_of(name: str) -> str:
        """`errors` for `errors.StoreError`."""
        return name if name in modules else name.rpartition(".")[0]

    graph = {here: {module_of(name) for name in own_imports(path)} - {here} for here, path in modules.items()}
    assert len([*TopologicalSorter(graph).static_order()]) >= len(modules) > 200


def test_the_page_names_every_folder_and_no_file_that_is_not_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [name for words in re.findall(r"`([^`\n]+)`", page) for name in re.findall(r"[\w/*-]+\.py\b", words)]
    there = [f"/{path.relative_to(ROOT).as_posix()}" for top in (PACKAGE, ROOT / "tests") for path in top.rglob("*.py")]
    assert [name for name in named if not any(fnmatch(path, f"*/{name}") for path in there)] == []
    assert len(named) > 80
    assert [unit for unit in FLOORS if f"{unit}.py" not in page and f"{unit}/" not in page and unit[0] != "_"] == []


def is_shared(name: str) -> bool:
    """A module with a leading underscore is its folder's own ground floor."""
    return name.split(".")[1].startswith("_")


@pytest.mark.parametrize(("library", "owner"), ONLY_IMPORTER.items())
def test_one_unit_imports(library: str, owner: str) -> None:
    importers = {module_name(path) for path in FILES for name in imports(path) if name.split(".")[0] == library}
    assert all(f"{name}.".startswith(f"{owner}.") for name in importers)


@pytest.mark.parametrize("path", [p for p in FILES if "core" in p.relative_to(PACKAGE).parts], ids=module_name)
def test_core_is_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.AsyncFunctionDef)]


def test_benchmarks_import_from_tests_and_never_the_reverse() -> None:
    paths = [*ROOT.glob("aembed/**/*.py"), *ROOT.glob("tests/**/*.py")]
    importers = [path for path in paths for name in imports(path) if name.split(".")[0] == "benchmarks"]
    assert len(paths) > 300
    assert importers == []

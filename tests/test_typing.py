"""What the type checkers, `help()` and `dir()` see of the package (row B9)."""

from __future__ import annotations

import asyncio
import inspect
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import aembed
from aembed import Embedder, EmbedderOptions, Embeddings, MemoryStore
from aembed.options import Options, QueryOptions
from aembed.pipeline.channel import Channel
from tests.typed import library, own_edges, web_app

ROOT = Path(__file__).parent.parent
TYPED = ROOT / "tests" / "typed"
RIGHT = ["library.py", "own_edges.py", "web_app.py"]
CHECKERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "mypy": (("mypy", "--strict", "--no-pretty"), r"mistakes\.py:(\d+): error"),
    "pyright": (("pyright", "--pythonpath", sys.executable), r"mistakes\.py:(\d+):\d+ - error"),
}


def checked(checker: str, *names: str) -> tuple[int, str]:
    command = [sys.executable, "-m", *CHECKERS[checker][0], *[str(TYPED / name) for name in names]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_b9_typed_programs_of_users_are_accepted(checker: str) -> None:
    code, said = checked(checker, *RIGHT)
    assert code == 0, said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_b9_mistakes_are_refused_line_by_line(checker: str) -> None:
    lines = (TYPED / "mistakes.py").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    code, said = checked(checker, "mistakes.py")
    refused = {int(number) for number in re.findall(CHECKERS[checker][1], said)}
    assert code == 1
    assert {lines[number - 1].strip() for number in wrong - refused} == set(), "these were accepted"
    assert {lines[number - 1].strip() for number in refused - wrong} == set(), f"these were refused: {said}"
    assert len(wrong) > 45


@pytest.mark.parametrize("program", [library, own_edges, web_app], ids=lambda module: module.__name__)
async def test_b9_the_typed_programs_do_what_they_say(program: Any, tmp_path: Path) -> None:
    import sqlite3

    await program.main(tmp_path)
    if program is library:
        with sqlite3.connect(tmp_path / "app.db") as connection:
            connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
            connection.execute("INSERT INTO notes (body) VALUES ('text')")
        connection.close()
        assert (await library.of_a_column(tmp_path / "app.db")).stored == 1


def test_b9_every_public_name_is_listed_once_and_is_there() -> None:
    assert len(aembed.__all__) == len(set(aembed.__all__)) > 70
    for name in aembed.__all__:
        assert getattr(aembed, name) is not None
    public = {name for name in vars(aembed) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(vars(aembed)[name])}
    assert public - modules - set(aembed.__all__) <= {"Any", "TYPE_CHECKING", "import_module"}
    assert set(aembed.__all__) <= set(dir(aembed))


def test_b9_what_a_public_signature_names_is_public() -> None:
    """Whoever calls it, or gives what it takes, can name the types."""
    names, unnamed = {name: getattr(aembed, name) for name in aembed.__all__}, set()
    named = {*aembed.__all__, *aembed.events.__all__}
    for public in names.values():
        for function in functions_of(public):
            for annotation in get_type_hints(function, localns=names).values():
                unnamed |= {each for each in named_in(annotation) if each.__name__ not in named}
    assert unnamed - {Channel} == set(), "of Results, which nobody else makes"


def functions_of(public: Any) -> list[Callable[..., Any]]:
    if inspect.isfunction(public):
        return [public]
    if not inspect.isclass(public) or not public.__module__.startswith("aembed."):
        return []
    members = [member for name, member in vars(public).items() if not name.startswith("_") or name == "__init__"]
    unwrapped = [inspect.unwrap(member.fget if isinstance(member, property) else member) for member in members]
    return [member for member in unwrapped if inspect.isfunction(member) and member.__module__ == public.__module__]


def named_in(annotation: Any) -> set[type]:
    """The classes of this package in it, however deep."""
    arguments = getattr(annotation, "__args__", ())
    found = set().union(*map(named_in, arguments)) if arguments else set()
    if isinstance(annotation, type) and annotation.__module__.startswith("aembed.") and annotation is not QueryOptions:
        found.add(annotation)
    return found


def test_b9_help_shows_the_classes_that_are_loaded_when_used() -> None:
    program = "import aembed, pydoc, sys; assert 'asyncpg' not in sys.modules; pydoc.doc(aembed, output=sys.stdout)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    shown = pydoc.plain(done.stdout)
    assert done.returncode == 0, done.stderr
    for name in ("Embedder", "Record", "FakeProvider", "MemoryStore", "PostgresColumn", "PostgresStore", "SQLiteStore"):
        assert f"    class {name}" in shown


def test_b9_importing_the_package_loads_no_driver() -> None:
    program = "import sys, aembed; print(*[name for name in ('asyncpg', 'sqlite3', 'httpx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "asyncpg" not in done.stdout.split()


def test_b9_the_keywords_are_the_same_wherever_they_stand() -> None:
    keywords = get_type_hints(Embedder.__init__)
    del keywords["model"], keywords["return"]
    assert get_type_hints(EmbedderOptions) == keywords
    assert get_type_hints(QueryOptions) == {name: kind for name, kind in keywords.items() if name != "timeout"}
    assert get_type_hints(Options).keys() < keywords.keys()


VERBS = ["embed_documents", "embed_query", "stream", "embed_into", "backfill", "search"]


@pytest.mark.parametrize("verb", VERBS)
def test_b9_the_functions_take_what_the_methods_take(verb: str) -> None:
    method, function = getattr(Embedder, verb), getattr(aembed, verb)
    wanted = dict(inspect.signature(method).parameters)
    given = dict(inspect.signature(function).parameters)
    del wanted["self"]
    assert given.pop("model").kind == inspect.Parameter.KEYWORD_ONLY
    assert given.pop("options").kind == inspect.Parameter.VAR_KEYWORD
    assert given == wanted
    assert get_type_hints(function)["return"] == get_type_hints(method)["return"]


async def test_b9_a_slice_is_a_list_and_one_is_a_vector() -> None:
    embeddings: Embeddings = await aembed.embed_documents(["one", "", "three"], model="fake:fake")
    assert [vector is None for vector in embeddings[:2]] == [False, True]
    assert embeddings[-1] is not None
    with pytest.raises(IndexError):
        embeddings[3]
    report = await aembed.embed_into(MemoryStore(), ["one"], model="fake:fake", retry_failed=True)
    assert report.stored == 1


def test_b9_all_of_it_can_be_imported_by_a_star() -> None:
    names: dict[str, Any] = {}
    exec("from aembed import *", names)
    assert set(aembed.__all__) <= names.keys()
    assert asyncio.iscoroutinefunction(names["embed_into"])

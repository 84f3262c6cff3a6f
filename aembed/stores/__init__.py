"""Where rows are kept: one file per store, named by the scheme of its URLs."""

from __future__ import annotations

import glob
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from aembed.errors import ConfigError
from aembed.protocols import Backlog, Refusals, Store
from aembed.ranges import one_line_of
from aembed.stores._caches import VectorCache
from aembed.stores._coordinators import Coordinator
from aembed.stores._sqlite._file import path_of
from aembed.types import Space

ALIASES = {"postgres": "postgresql"}
# RFC 3986, section 3.1, but two characters at the least: the C of a Windows path, C:\notes.db, is no scheme.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")


@runtime_checkable
class Column(Backlog, Refusals, Protocol):
    """A Backlog that keeps which vectors it is for, and which texts were refused."""

    async def space(self) -> Space | None:
        """Which vectors the column is for; None where that is not known yet."""
        ...

    async def preflight(self, space: Space, *, index: bool = False) -> list[str]:
        """What `prepare` (and `create_index`) would make, a line each, after the same checks. Writes nothing."""
        ...


@runtime_checkable
class Indexable(Protocol):
    """A store or a column that an index for searches can be built over."""

    async def create_index(
        self, *, memory: str | None = None, on_progress: Callable[[str, int, int], object] | None = None
    ) -> None:
        """Builds the index beside running writes. `memory` ("512MB") is what the server may use; `on_progress` is given
        the phase, how much of it is done and how much there is.
        """
        ...


@runtime_checkable
class IndexesWords(Protocol):
    """A store or a column that an index of words, for hybrid searches, can be built over."""

    async def index_words(self, *, on_progress: Callable[[str, int, int], object] | None = None) -> None:
        """Builds the index beside running writes; one that is there stays. `on_progress` as in Indexable."""
        ...


@runtime_checkable
class IndexesEmptyRows(Protocol):
    """A column of whose rows without a vector an index can be built, so that a watch finds them at no cost."""

    async def index_of_empty_rows(self) -> str | None:
        """The name of the index where it is not there yet."""
        ...

    async def index_empty_rows(self, *, on_progress: Callable[[str, int, int], object] | None = None) -> None:
        """Builds the index beside running writes; one that is there stays. `on_progress` as in Indexable."""
        ...


@runtime_checkable
class NotesChanges(Protocol):
    """A column whose triggers may note which rows become pending."""

    async def noted(self) -> tuple[int, float] | None:
        """How many changes wait, and for how many seconds the first; None without triggers."""
        ...


def schemes() -> list[str]:
    """The URL schemes that can be opened: `sqlite`, `memory` ..."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    # A name with an underscore is a part that stores share, or a column (sqlite_column); neither has URLs of its own.
    return sorted(name for name in names if "_" not in name)


def open_store(url: str | os.PathLike[str]) -> Store:
    """The store at a URL, or at the path of a SQLite file: `notes.db`, `sqlite:///notes.db`, `memory:`.

    Nothing is opened or created yet. Raises ConfigError for a scheme that is not known.
    """
    module = scheme_of(url) if isinstance(url, str) else "sqlite"
    store: Store = import_module(f"aembed.stores.{module}").open_url(os.fspath(url))
    return store


def open_cache(place: object) -> VectorCache:
    """The cache at a path, or at a URL of SQLite or PostgreSQL. Nothing is opened yet. Raises ConfigError."""
    if not isinstance(place, str | Path) or not os.fspath(place):
        raise ConfigError(f'cache={one_line_of(place)} must be a path or a URL, as "cache.db" or "postgresql://..."')
    scheme = scheme_of(place) if isinstance(place, str) else "sqlite"
    if scheme not in ("sqlite", "postgresql"):
        raise ConfigError(f"{scheme}: cannot hold a cache; give the path of a SQLite file, or a postgresql:// URL")
    cache: VectorCache = import_module(f"aembed.stores.{scheme}_cache").open_url(os.fspath(place))
    return cache


def open_coordinator(place: object) -> Coordinator:
    """The coordinator at a path, or at a URL of SQLite or PostgreSQL. Nothing is opened yet. Raises ConfigError."""
    if not isinstance(place, str | Path) or not os.fspath(place):
        raise ConfigError(
            f'coordinator={one_line_of(place)} must be a path or a URL, as "limits.db" or "postgresql://..."'
        )
    scheme = scheme_of(place) if isinstance(place, str) else "sqlite"
    if scheme not in ("sqlite", "postgresql"):
        raise ConfigError(f"{scheme}: cannot be a coordinator; give the path of a SQLite file, or a postgresql:// URL")
    coordinator: Coordinator = import_module(f"aembed.stores.{scheme}_coordinator").open_url(os.fspath(place))
    return coordinator


def files_of(url: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files that the store at a URL is kept in, there or not; none where a server or the memory keeps it.

    Raises ConfigError for a URL that open_store refuses.
    """
    if isinstance(url, str) and scheme_of(url) != "sqlite":
        return ()
    path = path_of(url)
    # A file that a user has made may be in another journal mode than WAL, and then SQLite keeps a -journal beside it.
    beside = (path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal"))
    return (path, *beside, *sorted(path.parent.glob(f"{glob.escape(path.name)}-map-*")))


def open_column(
    url: str,
    table: str,
    *,
    text: str | None = None,
    vector: str = "embedding",
    key: str | Sequence[str] | None = None,
    where: str | None = None,
    create_columns: bool = False,
    **others: str | None,
) -> Column:
    """The column `vector` of a table of the user's own, in the database at a URL, as the Column of its kind takes it.

    `others` are `fingerprint`, `text_sql`, which PostgreSQL alone has, and `create_triggers`, which SQLite has. Nothing
    is opened yet. Raises ConfigError for a kind of store that has no tables, and for an option that it has not.
    """
    module = scheme_of(url)
    if f"{module}_column" not in {found.name for found in pkgutil.iter_modules(__path__)}:
        raise ConfigError(f"{module}: has no tables of your own; columns are filled in sqlite: and postgresql:")
    opened = import_module(f"aembed.stores.{module}_column").open_url
    options = {"text": text, "vector": vector, "key": key, "where": where, "create_columns": create_columns}
    given = {name: value for name, value in others.items() if value is not None}
    column: Column = opened(url, table, **options, **given)
    return column


def scheme_of(url: str) -> str:
    """The kind of store at a URL, `sqlite` for a path. Raises ConfigError for a scheme that is not known."""
    scheme, colon, _ = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return "sqlite"
    # SQLAlchemy writes the driver behind a plus (postgresql+asyncpg://), and the kind of store before it.
    name = scheme.lower().partition("+")[0]
    name = ALIASES.get(name, name)
    if name not in schemes():
        raise ConfigError(
            f"{scheme}: is not a known kind of store; known are {', '.join(schemes())}, "
            "and a file whose name holds a colon is written sqlite:///NAME"
        )
    return name

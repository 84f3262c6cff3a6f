"""Names of tables and columns, as SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aembed.errors import ConfigError

LONGEST_BYTES = 63
"""PostgreSQL cuts longer names without a word (NAMEDATALEN), so that two of them become one."""
_PART = r'("(?:[^"]|"")+"|[^".]+)'
_TABLE = re.compile(rf"(?:{_PART}\.)?{_PART}")


def quote_name(name: str) -> str:
    """A name as SQL. Raises ConfigError for one that PostgreSQL would cut or cannot read."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"{name!r} cannot be a name: it holds a lone surrogate") from None
    if not name or "\0" in name:
        raise ConfigError(f"{name!r} cannot be a name: it is empty, or holds NUL")
    if size > LONGEST_BYTES:
        raise ConfigError(f"the name {name!r} has {size} bytes; PostgreSQL cuts names after {LONGEST_BYTES}")
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class TableName:
    """A table's name, and its schema where the user gave one."""

    table: str
    schema: str | None = None

    def __str__(self) -> str:
        parts = [quote_name(self.table)] if self.schema is None else [quote_name(self.schema), quote_name(self.table)]
        return ".".join(parts)

    def beside(self, suffix: str) -> TableName:
        return TableName(self.table + suffix, self.schema)


def parse_name(text: str) -> TableName:
    """`sections`, `app.sections`, or with quotes where a name holds a dot: `app."my.sections"`. Case is kept."""
    match = _TABLE.fullmatch(text)
    if match is None:
        raise ConfigError(f'{text!r} is not the name of a table; write table, schema.table or "odd.name"')
    given = [part for part in match.groups() if part is not None]
    parts = [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in given]
    name = TableName(parts[-1], parts[0] if len(parts) == 2 else None)
    # Called for its checks alone: a name that the server would cut is refused before anything is opened.
    str(name)
    return name

"""The table that a schedule fills, drawn from its seed: what it loses, how it is laid out, what is set for sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.stores.kinds import HARMLESS, SOME_DROPPED, SOME_REFUSED, of

BAD = "new.embedding IS NOT NULL AND new.id % 10 = 3"
EVERY = "new.embedding IS NOT NULL"
COLUMNS = "(id int PRIMARY KEY, content text, seen bytea, embedding vector(48))"
LAYOUTS: Mapping[str, Sequence[str]] = {
    "plain": [f"CREATE TABLE sections {COLUMNS}"],
    "unlogged": [f"CREATE UNLOGGED TABLE sections {COLUMNS}"],
    "partitions": [
        f"CREATE TABLE sections {COLUMNS} PARTITION BY RANGE (id)",
        "CREATE TABLE sections_1 PARTITION OF sections FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE sections_2 PARTITION OF sections DEFAULT",
    ],
    "domain": [
        "CREATE DOMAIN sections_vector AS vector(48) CHECK (vector_dims(VALUE) = 48)",
        f"CREATE TABLE sections {COLUMNS.replace('vector(48)', 'sections_vector')}",
    ],
    "generated": [
        f"CREATE TABLE sections {COLUMNS}",
        "ALTER TABLE sections ADD COLUMN is_filled boolean GENERATED ALWAYS AS (embedding IS NOT NULL) STORED",
    ],
}
SETTINGS: Sequence[Mapping[str, str]] = (
    {},
    {"synchronous_commit": "off"},
    {"default_transaction_isolation": "'repeatable read'"},
    {"default_transaction_isolation": "serializable"},
    {"statement_timeout": "'3s'", "lock_timeout": "'2s'", "idle_in_transaction_session_timeout": "'3s'"},
    {"TimeZone": "'Asia/Kolkata'", "DateStyle": "'German'", "bytea_output": "escape", "extra_float_digits": "-5"},
    {"standard_conforming_strings": "off", "transform_null_equals": "on", "quote_all_identifiers": "on"},
    {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "work_mem": "'64kB'", "array_nulls": "off"},
    {"session_replication_role": "replica"},
    {"search_path": "''"},
    {"search_path": "evil, public", "row_security": "off"},
    {"client_min_messages": "debug1", "check_function_bodies": "off"},
)
READ_ONLY: Mapping[str, str] = {"default_transaction_read_only": "on"}
NO_TABLES = frozenset(
    {"none", "keeps the old", "returns null", "other text", "raise", "divides", "not valid", "generated"}
)
"""Kinds whose functions name no table and no function of an extension: they work with any search path."""
NO_PARTITIONS = frozenset({"unique", "deferred key", "excluded"})
"""A key of a partitioned table holds the columns that tell its parts."""


@dataclass(frozen=True, slots=True)
class Table:
    """`loses`: rows whose id ends in 3, or `all` of them, keep no vector."""

    name: str = "none"
    layout: str = "plain"
    settings: Mapping[str, str] = field(default_factory=dict)
    all: bool = False

    def __str__(self) -> str:
        lost = f", loses {'all' if self.all else 'some'} rows: {self.name}" if self.loses else f", {self.name}"
        said = ", ".join(f"{name} = {value}" for name, value in self.settings.items())
        return f"{self.layout} table{lost}" + (f", {said}" if said else "")

    @property
    def loses(self) -> bool:
        return self.name not in HARMLESS

    @property
    def keeps_nothing(self) -> bool:
        return self.all or self.settings == READ_ONLY

    def is_lost(self, id: int) -> bool:
        return self.loses and (self.all or id % 10 == 3)

    def made(self) -> list[str]:
        """What is done to an empty database."""
        changes = (SOME_DROPPED | SOME_REFUSED | HARMLESS)[self.name]
        given = [each.replace("{table}", "sections") for each in of(changes, EVERY if self.all else BAD)]
        return [*LAYOUTS[self.layout], *given, *self._always()]

    def _always(self) -> list[str]:
        """A replica fires no triggers and no rules but these."""
        if self.settings.get("session_replication_role") != "replica" or not self.loses:
            return []
        rule = "RULE part" if self.name == "rule" else "TRIGGER hooked"
        return [f"ALTER TABLE sections ENABLE ALWAYS {rule}"]


def table_of(seed: int) -> Table:
    """In half of the schedules it loses some rows, in one of ten all of them."""
    random = Random(f"the table of {seed}")
    lost = SOME_DROPPED | SOME_REFUSED
    name = random.choice(list(lost) if random.random() < 0.6 else list(HARMLESS))
    layout, settings = random.choice(list(LAYOUTS)), random.choice(SETTINGS)
    if "search_path" in settings and name not in NO_TABLES:
        settings = {}
    if "session_replication_role" in settings and name in SOME_REFUSED and not _is_triggered(name):
        settings = {}
    if layout == "partitions" and name in NO_PARTITIONS:
        layout = "plain"
    if random.random() < 0.05:
        return Table("none", layout, READ_ONLY)
    return Table(name, layout, settings, all=name in lost and random.random() < 0.15)


def _is_triggered(name: str) -> bool:
    return any("CREATE TRIGGER hooked" in each or "CONSTRAINT TRIGGER hooked" in each for each in SOME_REFUSED[name])

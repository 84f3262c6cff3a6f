"""Kinds of PostgreSQL tables that lose some of the rows that are written, for the tests and the benchmarks.

{bad} is a condition on such rows as `new.id = 17`, {is_bad} one without `new.`, {table} the name of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.stores.tables import trigger

LATER = "DEFERRABLE INITIALLY DEFERRED"
DEFERRED = f"AFTER UPDATE OF embedding {LATER}"
CLEARS_AFTER = "UPDATE {table} SET embedding = null WHERE id = new.id AND embedding IS NOT NULL; RETURN null;"
CLEARS_SOME_AFTER = f"IF {{bad}} THEN {CLEARS_AFTER.replace('RETURN null;', '')} END IF; RETURN null;"
MADE_KEY = "ALTER TABLE {table} ADD COLUMN k int GENERATED ALWAYS AS (CASE WHEN {is_bad} THEN 0 ELSE id END) STORED"
TAKEN = "INSERT INTO {table} (id) VALUES (0)"
"""A row without a text, whose key no other can have."""


def some(action: str, when: str = "BEFORE UPDATE") -> Sequence[str]:
    """A trigger that does that to the bad rows."""
    return trigger(f"IF {{bad}} THEN {action} END IF; RETURN new;", when)


SOME_DROPPED: Mapping[str, Sequence[str]] = {
    "clears": some("new.embedding := null;"),
    "keeps the old": some("new.embedding := old.embedding;"),
    "returns null": some("RETURN null;"),
    "other vector": some("new.embedding := array_fill(0.5, ARRAY[vector_dims(new.embedding)])::vector;"),
    "other text": some("new.content := new.content || '!';"),
    "after": trigger(CLEARS_SOME_AFTER, "AFTER UPDATE OF embedding"),
    "at the commit": trigger(CLEARS_SOME_AFTER, DEFERRED),
    "after the statement": (
        """CREATE FUNCTION hooked_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
            #variable_conflict use_column
            BEGIN
                UPDATE {table} t SET embedding = null FROM written new WHERE t.id = new.id AND {bad};
                RETURN null;
            END $$""",
        """CREATE TRIGGER hooked AFTER UPDATE ON {table} REFERENCING NEW TABLE AS written FOR EACH STATEMENT
            WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION hooked_{table}()""",
    ),
    "deletes": trigger("IF {bad} THEN DELETE FROM {table} WHERE id = new.id; END IF; RETURN null;", "AFTER UPDATE"),
    "rule": ["CREATE RULE part AS ON UPDATE TO {table} WHERE {bad} DO INSTEAD NOTHING"],
}
"""A row that is written so is not there as it was written."""
SOME_REFUSED: Mapping[str, Sequence[str]] = {
    "raise": some("RAISE EXCEPTION 'no, %', new.content;"),
    "raise a code": some("RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation';"),
    "raise a code of one's own": some("RAISE EXCEPTION 'no' USING ERRCODE = '45000';"),
    "assert": some("ASSERT false;"),
    "divides": some("PERFORM 1 / (new.id - new.id);"),
    "calls what is not there": some("PERFORM not_there(new.id);"),
    "not valid": ["ALTER TABLE {table} ADD CHECK (NOT (embedding IS NOT NULL AND {is_bad})) NOT VALID"],
    "generated": [
        "ALTER TABLE {table} ADD COLUMN n int GENERATED ALWAYS AS "
        "(CASE WHEN {is_bad} AND embedding IS NOT NULL THEN 1 / (id - id) ELSE 1 END) STORED"
    ],
    "deferred": some("RAISE EXCEPTION 'no';", DEFERRED),
    "unique": [
        MADE_KEY.replace("{is_bad}", "{is_bad} AND embedding IS NOT NULL"),
        TAKEN,
        "ALTER TABLE {table} ADD UNIQUE (k)",
    ],
    "deferred key": [
        MADE_KEY.replace("{is_bad}", "{is_bad} AND embedding IS NOT NULL"),
        TAKEN,
        f"ALTER TABLE {{table}} ADD UNIQUE (k) {LATER}",
    ],
    "excluded": [
        MADE_KEY.replace("{is_bad}", "{is_bad} AND embedding IS NOT NULL"),
        TAKEN,
        "ALTER TABLE {table} ADD EXCLUDE USING btree (k WITH =)",
    ],
    "foreign key": [
        "CREATE TABLE {table}_ok AS SELECT 1 AS id",
        "ALTER TABLE {table}_ok ADD PRIMARY KEY (id)",
        "ALTER TABLE {table} ADD COLUMN ok int GENERATED ALWAYS AS "
        "(CASE WHEN embedding IS NULL THEN NULL WHEN {is_bad} THEN 2 ELSE 1 END) STORED "
        f"REFERENCES {{table}}_ok {LATER}",
    ],
}
"""A row that is written so raises."""
HARMLESS: Mapping[str, Sequence[str]] = {
    "none": (),
    "touches": trigger("new.seen := coalesce(new.seen, 'x'); RETURN new;"),
    "makes length 1": trigger("new.embedding := l2_normalize(new.embedding); RETURN new;"),
    "logs": trigger("PERFORM 1; RETURN null;", "AFTER UPDATE"),
    "skips what is the same": [
        "CREATE TRIGGER z BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ],
    "is disabled": [
        *trigger("new.embedding := null; RETURN new;"),
        "ALTER TABLE {table} DISABLE TRIGGER hooked",
    ],
    "also": [
        "CREATE TABLE {table}_log (id int)",
        "CREATE RULE log AS ON UPDATE TO {table} DO ALSO INSERT INTO {table}_log VALUES (new.id)",
    ],
}


def of(changes: Sequence[str], bad: str) -> list[str]:
    return [each.replace("{bad}", bad).replace("{is_bad}", bad.replace("new.", "")) for each in changes]

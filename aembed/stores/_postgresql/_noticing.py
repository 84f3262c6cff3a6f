"""Triggers of a user's own table that note which rows become pending, and the queue that they note them in.

They fire once a statement, and write the keys of its rows that have no vector, or one of another text. An entry is
taken by one worker, and removed once its row was read and what came of it is settled: each later edit makes an entry
of its own. The entries of a worker that died are taken over by the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from aembed.errors import StoreError
from aembed.stores._postgresql._columns import ColumnLayout, native
from aembed.stores._postgresql._database import SAME_TEXT, Connection
from aembed.stores._postgresql._grants import LOCK, may_create, may_write
from aembed.stores._postgresql._leases import ALIVE, FREE, NAMES, ColumnWorker, lease_target
from aembed.stores._postgresql._names import quote_name
from aembed.stores._postgresql._preflight import OWNS

QUEUE = "changed"
CHANNEL = "aembed_changed"
NOTIFY = f"SELECT pg_catalog.pg_notify('{CHANNEL}', '')"
TABLE = """CREATE TABLE IF NOT EXISTS aembed.changed (id bigint GENERATED ALWAYS AS IDENTITY, target text NOT NULL,
        key text NOT NULL, token bigint, noted_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
        PRIMARY KEY (target, id));
    ALTER TABLE aembed.changed SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)"""
"""Without a unique key of the rows: two transactions of the user's would wait for each other there."""
# Of the definer, since whoever writes the table need not have rights in the schema `aembed`.
FUNCTION = """CREATE OR REPLACE FUNCTION aembed.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp {settings} AS {body}"""
OURS = "REVOKE ALL ON FUNCTION aembed.{name}() FROM PUBLIC"
"""Nobody else hangs it on a table of his own; a trigger fires all the same."""
# The user's own statement never fails because one of these columns has another name, or the queue is gone: that is
# tried in a block of its own, which reads no row, and so takes no number of a transaction as one that writes would.
BODY = """BEGIN
    BEGIN
        PERFORM {id} FROM ({rows}) AS t, aembed.changed LIMIT 0;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'aembed does not note what changes in %: %', TG_RELID::regclass, SQLERRM;
        RETURN NULL;
    END;
    INSERT INTO aembed.changed (target, key) SELECT {target}, {id} FROM ({rows}) AS t WHERE {is_keyed};
    IF FOUND THEN PERFORM pg_catalog.pg_notify('aembed_changed', ''); END IF;
    RETURN NULL;
END"""
STALE = "SELECT {keys} FROM aembed_new AS t WHERE ({text}) IS NOT NULL AND {is_stale}"
# An expression may look at other tables, by the names of the user's own search path, so that it is left alone here; and
# a virtual generated column has no value among a trigger's rows: to name it there is an error (PostgreSQL 18). A row
# whose fingerprint a statement has not touched was not filled by it, and may have been edited.
UNTOUCHED = """SELECT {keys} FROM (SELECT {keys}, t.{fingerprint} FROM aembed_new AS t INTERSECT
        SELECT {keys}, t.{fingerprint} FROM aembed_old AS t) AS t
    UNION SELECT {keys} FROM aembed_new AS t WHERE t.{vector} IS NULL"""
INSERTED = "SELECT {keys} FROM aembed_new AS t"
EMPTY = "SELECT {keys} FROM aembed_new AS t WHERE t.{vector} IS NULL"
TRIGGER = """CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {table} REFERENCING {transition}
    FOR EACH STATEMENT EXECUTE FUNCTION aembed.{name}();
    ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"""
# ALWAYS: in a session with session_replication_role = replica, too, as those are that restore a dump.
# A trigger waits for writers of the table, and all later ones wait for it; so it waits for no longer than this.
PATIENCE = "SET LOCAL lock_timeout = '500ms'"
FORGET = "DELETE FROM aembed.changed WHERE target = $1"
"""Entries of triggers that were others may name rows by another key. Whoever makes triggers looks at all rows next."""
MADE = """SELECT t.tgname::text, p.prosrc FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = $1::bigint::oid AND t.tgfoid = pg_catalog.to_regproc($2)::oid AND t.tgenabled IN ('O', 'A')"""
SUBSCRIBED = """WITH RECURSIVE tree AS (
        SELECT pg_catalog.to_regclass($1)::oid AS oid
        UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid)
    SELECT EXISTS (SELECT FROM tree JOIN pg_catalog.pg_subscription_rel s ON s.srrelid = tree.oid)"""
# Those of workers that are gone; and our own, which an earlier look has left.
TAKE = """UPDATE aembed.changed SET token = $2 WHERE target = $1 AND id IN (
    SELECT c.id FROM aembed.changed c WHERE c.target = $1 AND (c.token IS NULL OR c.token = $2
        OR NOT EXISTS (SELECT FROM aembed.workers w WHERE w.token = c.token AND {alive}))
    ORDER BY c.id LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING id, key""".replace("{alive}", ALIVE)
STILL_PENDING = """SELECT {id} FROM {table} AS t JOIN unnest({given}) AS aembed_new ({names}) ON {is_key}
    WHERE {is_pending}"""
ORPHANS = """SELECT l.key FROM aembed.leases l WHERE l.target = $1 AND NOT l.failed
    AND NOT EXISTS (SELECT FROM aembed.workers w WHERE w.token = l.token AND {alive}) LIMIT $2""".replace(
    "{alive}", ALIVE
)
FREE_ORPHANS = """DELETE FROM aembed.leases l WHERE l.target = $1 AND l.key = ANY ($2::text[])
    AND NOT EXISTS (SELECT FROM aembed.workers w WHERE w.token = l.token AND {alive})""".replace("{alive}", ALIVE)
HAND_BACK = """INSERT INTO aembed.changed (target, key)
    SELECT target, key FROM aembed.leases WHERE target = $1 AND token = $2 AND NOT failed"""
REMOVE = "DELETE FROM aembed.changed WHERE target = $1 AND id = ANY ($2::bigint[])"
RELEASE = "UPDATE aembed.changed SET token = NULL WHERE target = $1 AND id = ANY ($2::bigint[])"
WAITING = """SELECT count(*), coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - min(noted_at)), 0)::float8
    FROM aembed.changed WHERE target = $1"""

# Chosen: a full request. Larger, whoever edits a row waits for more rows before it; smaller, a large import takes more
# looks.
MOST_TAKEN = 2_048
"""Entries of one look."""


def function_name(column: str, table: ColumnLayout) -> str:
    digest = blake2b(lease_target(column, table).encode(), digest_size=8).hexdigest()
    return f"watch_{digest}"


def trigger_names(column: str, table: ColumnLayout) -> dict[str, str]:
    """By event."""
    name = function_name(column, table)
    return {"INSERT": quote_name(f"aembed_{name}_insert"), "UPDATE": quote_name(f"aembed_{name}_update")}


async def are_there(column: str, table: ColumnLayout, connection: Connection) -> bool:
    """Whether both triggers are there, and the queue and the leases may be written."""
    if table.absent or not await may_write(connection, QUEUE, *NAMES):
        return False
    return len(await _made(column, table, connection)) == 2


async def is_subscribed(table: ColumnLayout, connection: Connection) -> bool:
    """Whether logical replication writes the table: what it applies fires no trigger of a statement."""
    return bool(await connection.fetchval(SUBSCRIBED, table.table))


async def are_current(column: str, table: ColumnLayout, connection: Connection) -> bool:
    """Whether they are there, and are what they would be made to be now."""
    if not await are_there(column, table, connection):
        return False
    body = await _body(column, table, connection)
    return all(source == body for source in (await _made(column, table, connection)).values())


async def look(column: str, was_noted: bool, table: ColumnLayout, connection: Connection) -> tuple[bool, bool]:
    """Whether triggers note what changes, and whether they note all of it; they are compared where they were not
    believed before."""
    is_noted = await (are_there if was_noted else are_current)(column, table, connection)
    return is_noted, is_noted and not await is_subscribed(table, connection)


async def _made(column: str, table: ColumnLayout, connection: Connection) -> dict[str, str]:
    """The sources of the triggers' function, by their names, quoted."""
    found = await connection.fetch(MADE, table.oid, f"aembed.{function_name(column, table)}")
    return {quote_name(name): source for name, source in found}


async def announce(place: str, column: str, table: ColumnLayout, connection: Connection) -> list[str]:
    """What will be made, a line each. Raises StoreError where the role may not."""
    if await are_current(column, table, connection):
        return []
    await _check_owner(place, table, connection)
    names = " and ".join(trigger_names(column, table).values())
    return [
        f"triggers {names} on {table.table}, once a statement, which note rows that become pending in aembed.changed "
        f"and call NOTIFY; DROP FUNCTION aembed.{function_name(column, table)} CASCADE removes them"
    ]


async def make(place: str, column: str, table: ColumnLayout, connection: Connection) -> None:
    """In a transaction that has locked nothing, as others may wait for that while the table is waited for here."""
    if await are_current(column, table, connection):
        return
    await _check_owner(place, table, connection)
    name = function_name(column, table)
    await connection.execute(LOCK)
    await connection.execute(PATIENCE)
    if await may_create(connection, QUEUE):
        await connection.execute(TABLE)
    settings = SAME_TEXT.replace(";", "").replace("LOCAL ", "")
    body = await connection.fetchval("SELECT pg_catalog.quote_literal($1)", await _body(column, table, connection))
    await connection.execute(FUNCTION.format(name=name, body=body, settings=settings))
    await connection.execute(OURS.format(name=name))
    there = await _made(column, table, connection)
    for event, trigger in trigger_names(column, table).items():
        old = " OLD TABLE AS aembed_old" if event == "UPDATE" else ""
        if trigger not in there:
            transition = f"NEW TABLE AS aembed_new{old}"
            parts = {"trigger": trigger, "event": event, "transition": transition, "name": name}
            await connection.execute(TRIGGER.format(table=table.table, **parts))
    await connection.execute(FORGET, lease_target(column, table))


async def _check_owner(place: str, table: ColumnLayout, connection: Connection) -> None:
    if not await connection.fetchval(OWNS, table.oid):
        raise StoreError(f"{place}: only the owner of {table.table} may add triggers; connect as the owner")


async def _body(column: str, table: ColumnLayout, connection: Connection) -> str:
    target = await connection.fetchval("SELECT pg_catalog.quote_literal($1)", lease_target(column, table))
    parts = {"keys": table.key_list, "vector": table.vector, "fingerprint": table.fingerprint}
    noted = {"target": target, "id": table.id, "is_keyed": table.is_keyed}
    if not table.is_computed:
        return BODY.format(rows=STALE.format(text=table.text, is_stale=table.is_stale, **parts), **noted)
    if table.fingerprint is None:
        return BODY.format(rows=EMPTY.format(**parts), **noted)
    inserted = BODY.format(rows=INSERTED.format(**parts), **noted)
    updated = BODY.format(rows=UNTOUCHED.format(**parts), **noted)
    return f"BEGIN\n    IF TG_OP = 'INSERT' THEN\n{inserted};\n    ELSE\n{updated};\n    END IF;\nEND"


@dataclass(frozen=True, slots=True)
class Noted:
    """What one look is at: `entries` of the queue with the keys of their rows, and rows that a worker held which died
    or left."""

    entries: Mapping[int, str]
    orphans: Sequence[str]

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys([*self.entries.values(), *self.orphans]))


NOTHING = Noted({}, ())


async def take(worker: ColumnWorker, is_noted: bool, connection: Connection) -> Noted:
    """Entries, oldest first, which are this worker's from now on; and what nobody holds any more."""
    found = await connection.fetch(TAKE, worker.target, worker.token, MOST_TAKEN) if is_noted else []
    orphans = await connection.fetch(ORPHANS, worker.target, MOST_TAKEN)
    return Noted(dict(sorted(map(tuple, found))), [key for (key,) in orphans])


async def settle(
    noted: Noted, left: Collection[str], worker: ColumnWorker, table: ColumnLayout, connection: Connection
) -> int:
    """After a look: its leases are given up, and its entries removed; but those of rows that are still pending and not
    `left` are for the next look, of whichever worker. Returns how many those are."""
    await connection.execute(FREE, worker.target, worker.token)
    if noted.orphans:
        await connection.execute(FREE_ORPHANS, worker.target, list(noted.orphans))
    if not noted.entries:
        return 0
    keys = sorted(set(noted.entries.values()))
    statement = STILL_PENDING.format(id=table.id, table=table.table, is_pending=table.is_pending, **table.given_keys(1))
    given = map(list, zip(*map(native, keys), strict=True))
    pending = {key for (key,) in await connection.fetch(statement, *given)}.difference(left)
    kept = [id for id, key in noted.entries.items() if key in pending]
    await connection.execute(REMOVE, worker.target, [id for id, key in noted.entries.items() if key not in pending])
    if kept:
        await connection.execute(RELEASE, worker.target, kept)
    return len(kept)


async def hand_back(worker: ColumnWorker, connection: Connection) -> None:
    """What this worker holds and will not fill any more is noted for the others, before it leaves."""
    await connection.execute(HAND_BACK, worker.target, worker.token)
    await connection.execute(NOTIFY)


async def waiting(column: str, table: ColumnLayout, connection: Connection) -> tuple[int, float] | None:
    """How many entries wait, and for how many seconds the oldest; None where nothing is noted."""
    if not await are_there(column, table, connection):
        return None
    count, seconds = await connection.fetchrow(WAITING, lease_target(column, table))
    return count, seconds

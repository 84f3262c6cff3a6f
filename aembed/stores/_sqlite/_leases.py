"""Leases of texts in a SQLite file, by fingerprint. Nothing here has to outlast a power cut.

A store and the columns of a user's own tables keep them in the same two tables: a column's are named apart.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection
from collections.abc import Set as AbstractSet
from sqlite3 import Connection

from aembed.stores._sqlite._database import select_in

WORKERS = "aembed_workers"
# AUTOINCREMENT: without it SQLite gives the largest token once more when its row has been removed.
TABLES = (
    """CREATE TABLE IF NOT EXISTS aembed_workers (token INTEGER PRIMARY KEY AUTOINCREMENT, expires_at REAL NOT NULL,
        alone INTEGER NOT NULL, host TEXT, pid INTEGER)""",
    """CREATE TABLE IF NOT EXISTS aembed_leases (fingerprint BLOB PRIMARY KEY NOT NULL, token INTEGER NOT NULL)
        WITHOUT ROWID""",
)
# 2440587.5 is the Julian day of 1970-01-01 00:00 UTC. unixepoch() is there since SQLite 3.38 only.
DEAD = "SELECT token FROM aembed_workers WHERE expires_at < (julianday('now') - 2440587.5) * 86400.0"
"""Seconds since 1970, by SQLite's clock."""
SET_BACK = """UPDATE aembed_workers SET expires_at = (julianday('now') - 2440587.5) * 86400.0 + :seconds
    WHERE expires_at > (julianday('now') - 2440587.5) * 86400.0 + 2 * :seconds"""
"""No lease ends so late, unless the clock was set back since: it ends as if it were of now."""
FREE = "DELETE FROM aembed_leases WHERE token = ?"
FORGET = "DELETE FROM aembed_workers WHERE token = ?"
PROCESSES = "SELECT token, pid FROM aembed_workers WHERE host = ? AND pid IS NOT NULL"
JOIN = """INSERT INTO aembed_workers (expires_at, alone, host, pid)
    VALUES ((julianday('now') - 2440587.5) * 86400.0 + ?, NOT EXISTS (SELECT 1 FROM aembed_workers), ?, ?)
    RETURNING alone"""
BEAT = """INSERT INTO aembed_workers (token, expires_at, alone, host, pid)
    VALUES (?, (julianday('now') - 2440587.5) * 86400.0 + ?, 0, ?, ?)
    ON CONFLICT (token) DO UPDATE SET expires_at = excluded.expires_at"""
TELL = "UPDATE aembed_workers SET alone = 0 WHERE token = ?"
ALONE = "SELECT 1 FROM aembed_workers WHERE alone AND token <> ?"
OTHERS = """SELECT 1 FROM aembed_workers
    WHERE token <> ? AND expires_at >= (julianday('now') - 2440587.5) * 86400.0"""
RELEASE = "DELETE FROM aembed_leases WHERE fingerprint = ? AND token = ?"
HELD = "SELECT fingerprint, token FROM aembed_leases WHERE fingerprint IN ({})"
LEASE = "INSERT OR IGNORE INTO aembed_leases (fingerprint, token) VALUES (?, ?)"


def make_tables(connection: Connection) -> None:
    for table in TABLES:
        connection.execute(table)


def join(seconds: float, connection: Connection) -> tuple[int, bool]:
    make_tables(connection)
    _bury(seconds, connection)
    cursor = connection.execute(JOIN, (seconds, platform.node(), os.getpid()))
    (alone,) = cursor.fetchone()
    token = connection.execute("SELECT max(token) FROM aembed_workers").fetchone()[0]
    return token, bool(alone)


def others(token: int, connection: Connection) -> bool:
    return connection.execute(OTHERS, (token,)).fetchone() is not None


def lease(
    token: int,
    wanted: Collection[bytes],
    done: Collection[bytes],
    seconds: float,
    written: Callable[[Collection[bytes], Connection], AbstractSet[bytes]] | None,
    connection: Connection,
) -> set[bytes]:
    """A sign of life of this worker; those of the wanted that it holds now.

    `written` says which of them need no lease any more; None where no fingerprints are kept.
    """
    connection.execute(BEAT, (token, seconds, platform.node(), os.getpid()))
    connection.executemany(RELEASE, [(fingerprint, token) for fingerprint in done])
    if not wanted:
        return set()
    _bury(seconds, connection)
    connection.execute(TELL, (token,))
    if connection.execute(ALONE, (token,)).fetchone():
        return set()
    leased = set(wanted)
    leased.difference_update(held for held, owner in select_in(connection, HELD, wanted) if owner != token)
    if written:
        leased -= written(wanted, connection)
    connection.executemany(LEASE, [(fingerprint, token) for fingerprint in leased])
    return leased


def leave(token: int, connection: Connection) -> None:
    connection.execute(FREE, (token,))
    connection.execute(FORGET, (token,))


def _bury(seconds: float, connection: Connection) -> None:
    """The leases of workers whose time is over are free, and at once those of processes of this machine that ended."""
    connection.execute(SET_BACK, {"seconds": seconds})
    processes = connection.execute(PROCESSES, (platform.node(),)).fetchall()
    ended = [(token,) for token, pid in processes if not _is_alive(pid)]
    for dead in {*connection.execute(DEAD).fetchall(), *ended}:
        connection.execute(FREE, dead)
        connection.execute(FORGET, dead)


def _is_alive(pid: int) -> bool:
    """Where that cannot be told it is: its leases end with their time. Windows has no signal that only asks."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

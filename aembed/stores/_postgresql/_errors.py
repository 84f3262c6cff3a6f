"""What the server or the network said, as a verdict and a sentence that never quotes a text or a password."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from aembed.errors import RowRefusedError, SpaceMismatchError, StoreError

OUTAGE = ("08", "57P01", "57P02", "57P03")
"""The connection is gone or the server is stopping, starting, or in recovery."""
BUSY = ("40P01", "40001", "53300", "55P03", "23505")
"""Deadlock, serialization, too many connections, a lock; two writers of one new id: the second finds it there."""
TAKEN = "23505"
"""Of BUSY: where it does not pass, the row breaks a unique key of the user's own."""
EVENT_TRIGGER = (
    "an event trigger forbids it (SELECT evtname FROM pg_event_trigger): exempt this from it, or ask its owner"
)
TRANSACTION_TIMEOUT = "25P04"
SLOW = ("57014", TRANSACTION_TIMEOUT)
# PostgreSQL's appendix A: 09 and 27 are triggers, 20 CASE, 21 cardinality, 22 data, 23 constraints, 38 and 39
# functions, 44 WITH CHECK OPTION, 54 limits (a value too large for its index), P0 PL/pgSQL.
OF_ROWS = ("09", "20", "21", "22", "23", "27", "38", "39", "44", "54", "P0")
"""Classes that speak of the row that is written: data, constraints, RAISE in a trigger, what an index can hold."""
OF_SERVERS = (
    *("00", "01", "02", "03", "08", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "24", "25", "26", "28", "2B", "2D", "2F"),
    *("34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX"),
)
"""All other classes of PostgreSQL. What is in neither list is a code that a function of the user's own raises."""
CHECKS_POLICIES = "ExecWithCheckOptions"
"""Where the server finds that a policy (row-level security) does not allow a new row."""
IN_FUNCTION = re.compile(r"function ([\w.\"$]+)\(")
FULL_POOLERS = ("max client connections reached", "max clients reached", "emaxconn", "no more connections allowed")
"""Supavisor says so with the class of an internal error, PgBouncer with that of the protocol."""
STATEMENT_MODE = "statement pooling mode"
REFUSED_BY_POOLERS = ("startup parameter", STATEMENT_MODE)
BY_WORDS = {
    STATEMENT_MODE: "a pooler in statement mode is in between: give the URL of the server itself, or set its pool_mode "
    "to transaction",
    "cannot update table": "a publication needs more than the table's replica identity has: ALTER TABLE ... REPLICA "
    "IDENTITY FULL, or take the table out of the publication (pg_publication_tables tells which)",
}
"""Advice on what the class of an error does not tell."""
QUOTES_NOTHING = ("08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58")
"""Classes of SQLSTATE whose messages name tables, roles and limits, never values."""
ADVICE = {
    "26000": "a pooler in transaction mode is in between: create your pool with statement_cache_size=0",
    "42P05": "a pooler in transaction mode is in between: create your pool with statement_cache_size=0",
    "25006": "the server, or the role, is read-only; connect to the primary",
    "42501": "the role may not do this; GRANT it, or connect as the owner of the table",
    "55P03": "a transaction holds the table for long; end it (pg_stat_activity tells which)",
    "57014": "the server's statement_timeout is too short; raise it for this role: "
    "ALTER ROLE ... SET statement_timeout = '2min'",
    "25P04": "the server's transaction_timeout is too short; raise it for this role: "
    "ALTER ROLE ... SET transaction_timeout = '2min'",
    "22021": "the database holds text that is not UTF-8; mend it, or leave such rows out (where=, --where)",
    "22P05": "the encoding of the database cannot hold the text; keep it in a database that is UTF8",
    "28P01": "check the user and the password in the URL",
    "3D000": "check the name of the database in the URL",
    "53100": "the server's disk is full; free some space, then run this again",
}
_OTHER_WIDTH = re.compile(r"expected \d+ dimensions, not \d+")
Lost: tuple[type[Exception], ...] = (asyncpg.InternalClientError, OSError, TimeoutError)
"""What asyncpg raises for a connection that went away; the first where that happened in the middle of a COPY."""
GONE = ("clos", "released back")
"""What asyncpg says of a connection that was lost before it was asked: its pool has taken it back."""
Refused: tuple[type[Exception], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError, *Lost)


class SlowError(StoreError):
    """It took longer than the server or we allow."""


def last_word(error: BaseException) -> Any:
    """What the server, or a pooler, said as it closed the connection: asyncpg tells it as the cause."""
    is_lost = isinstance(error, asyncpg.ConnectionDoesNotExistError)
    return error.__cause__ if is_lost and isinstance(error.__cause__, asyncpg.PostgresError) else error


def is_outage(error: BaseException) -> bool:
    """Whether the connection was lost or could not be made."""
    if is_cut_off(error):
        return False
    # Both are OSErrors, and would be waited for as an outage; a wrong name and a wrong certificate stay wrong.
    if isinstance(error, ssl.SSLCertVerificationError | socket.gaierror):
        return False
    if isinstance(error, asyncpg.PostgresError):
        # PgBouncer refuses a startup parameter that it does not know with a code of class 08, and so a transaction in
        # statement mode; both it will refuse again.
        refused = any(words in str(error) for words in REFUSED_BY_POOLERS)
        return (error.sqlstate or "").startswith(OUTAGE) and not refused
    closed = isinstance(error, asyncpg.InterfaceError) and any(word in str(error) for word in GONE)
    return closed or isinstance(error, Lost)


def is_busy(error: BaseException) -> bool:
    """Whether the same may succeed in a moment on a server that is well."""
    if isinstance(error, asyncpg.PostgresError):
        full = any(words in str(error).lower() for words in FULL_POOLERS)
        return full or error.sqlstate in BUSY
    return False


def is_slow(error: BaseException) -> bool:
    """Whether the statement took longer than the server or we allow: less at once may succeed."""
    return isinstance(error, TimeoutError) or getattr(last_word(error), "sqlstate", None) in SLOW


def is_cut_off(error: BaseException) -> bool:
    """Whether the server has ended a transaction that took too long."""
    return getattr(last_word(error), "sqlstate", None) == TRANSACTION_TIMEOUT


def is_of_row(error: BaseException) -> bool:
    """Whether a row is refused for what it is: without that row the same may succeed."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    code = error.sqlstate or "XX000"
    if code.startswith(OF_ROWS) or not code.startswith(OF_SERVERS):
        return True
    # What a trigger's function cannot do for one row it may do for others.
    raised = code.startswith("42") and _raising_function(error) is not None
    return raised or getattr(error, "server_source_function", None) == CHECKS_POLICIES


@contextmanager
def while_making(what: str) -> Iterator[None]:
    """While a table is made no row is there that could be to blame: an event trigger is, which StoreError says."""
    try:
        yield
    except asyncpg.PostgresError as error:
        # Another worker may make the same at this moment.
        if not is_of_row(error) or is_busy(error):
            raise
        reason = f"{error.args[0]} ({error.sqlstate})"
        raise StoreError(f"the server lets no {what} be made: {reason}; {EVENT_TRIGGER}") from None


def explain_error(error: BaseException, place: str, *, of_rows: bool = False) -> StoreError:
    """`of_rows`: rows were being written, and may be to blame."""
    match error:
        case StoreError():
            return error
        case asyncpg.PostgresError():
            return _refusal(error, place, of_rows and is_of_row(error))
        case TimeoutError():
            return SlowError(f"{place} did not answer in time; check the server, then run this again")
        case socket.gaierror():
            return StoreError(f"{place}: the name of the host is not known; check the URL")
        case asyncpg.exceptions.ClientConfigurationError() if "certificate" in str(error):
            return StoreError(f"{place}: there is no file of certificates to trust; add sslrootcert=FILE to the URL")
        case ssl.SSLCertVerificationError():
            return StoreError(
                f"{place}: the server's certificate proves nothing ({error.verify_message}); "
                "check sslmode and sslrootcert in the URL"
            )
        case ConnectionError() if "SSL upgrade" in str(error):
            return StoreError(f"{place}: the server has no TLS, which sslmode in the URL asks for")
        case OSError():
            # asyncio writes the address behind its words, in brackets: Connect call failed ('127.0.0.1', 5432).
            reason = error.strerror.partition("(")[0].strip() if error.strerror else type(error).__name__
            return StoreError(f"{place} cannot be reached: {reason}; check host and port, and that the server runs")
        case _:
            return StoreError(f"{place}: {type(error).__name__}; the connection cannot be used")


def _raising_function(error: asyncpg.PostgresError) -> str | None:
    """The function of the user's own that raised it. Of the context only a name: the rest may quote a text."""
    found = IN_FUNCTION.search(getattr(error, "context", None) or "")
    return found[1] if found else None


def _refusal(lost: asyncpg.PostgresError, place: str, of_row: bool) -> StoreError:
    error = last_word(lost)
    code = error.sqlstate or "XX000"
    if _OTHER_WIDTH.fullmatch(str(error)):
        return SpaceMismatchError(f"{place}: {error}")
    # Without DETAIL and HINT, which may show a row.
    message = getattr(error, "message", None) or type(error).__name__
    said = f": {message}" if code.startswith(QUOTES_NOTHING) else ""
    constraint = f" of constraint {error.constraint_name!r}" if getattr(error, "constraint_name", None) else ""
    function = f" in function {name}()" if (name := _raising_function(error)) else ""
    found = next((advice for words, advice in BY_WORDS.items() if words in str(error)), ADVICE.get(code))
    advice = f"; {found}" if found else ""
    kind = SlowError if code in SLOW else (RowRefusedError if of_row else StoreError)
    return kind(f"{place}: {type(error).__name__}{constraint}{function}{said} ({code}){advice}")

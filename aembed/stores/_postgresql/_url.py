"""A database URL, taken apart before anybody else sees it: passwords with any character, and never in a message."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from aembed.errors import ConfigError

POOLER_PORT = 6543
"""Supabase's transaction pooler (Supavisor)."""
OURS = {"table", "storage"}
POOLERS = {"pgbouncer", "connection_limit", "pool_timeout", "prepared_statements", "statement_cache_size", "supa"}
"""Parameters that other libraries put into a pooler's URL; the server refuses them as settings."""
TLS = {
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
}
PASSED = TLS | {"passfile", "service", "servicefile", "target_session_attrs", "krbsrvname", "gsslib"}
SETTINGS = {"application_name", "options"}
CONNECT = {"host", "port", "user", "password", "dbname", "connect_timeout"}
KNOWN = sorted(OURS | POOLERS | PASSED | SETTINGS | CONNECT)

_AFTER_USER = re.compile(
    r"(?P<hosts>[\w.\-:,\[\]%]*)(?:/(?P<database>[^/?#@]*))?(?:\?(?P<query>(?:[a-z_]+=[^&]*&?)*))?"
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is and how to get in. `connect` are asyncpg's keywords; they hold the password."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str | None
    connect: dict[str, Any] = field(repr=False)
    behind_pooler: bool = False
    keeps_sessions: bool = False
    """A pooler in session mode: Supabase's, on any port but 6543."""
    parameters: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Without user and password."""
        hosts = ",".join(self.hosts) or "localhost"
        return f"postgresql://{hosts}/{self.database or ''}"

    def url(self, **parameters: str) -> str:
        """With the ports and these parameters; without user and password."""
        hosts = [f"[{host}]" if ":" in host else host for host in self.hosts]
        pairs = ",".join(f"{host}:{port}" for host, port in zip(hosts, self.ports, strict=True)) or "localhost"
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"postgresql://{pairs}/{self.database or ''}{query}"


def parse(url: str) -> ServerAddress:
    """Raises ConfigError, which never quotes the URL, for one that cannot be read."""
    user, password, rest = _split(url.partition("://")[2])
    parts = _AFTER_USER.fullmatch(rest)
    if parts is None:
        raise ConfigError("the database URL cannot be read; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    given = dict(parse_qsl(parts["query"] or "", keep_blank_values=True))
    if unknown := sorted(set(given) - set(KNOWN)):
        raise ConfigError(
            f"the database URL has a parameter {unknown[0]!r} that is not known; known: {', '.join(KNOWN)}"
        )
    hosts, ports = _hosts(given.get("host") or parts["hosts"], given.get("port"))
    database = given.get("dbname") or unquote(parts["database"] or "") or None
    connect = {
        "user": given.get("user", user) or None,
        "password": given.get("password", password),
        "database": database,
        "host": list(hosts) or None,
        "port": list(ports) if hosts else (ports[0] if ports else None),
        # Chosen: 10 s where nothing is said. asyncpg's own 60 s would hide a wrong host for a minute; less would fail
        # servers that wake up at the first connection.
        "timeout": _seconds(given.get("connect_timeout", "10")),
        "dsn": f"postgresql:///?{urlencode({name: given[name] for name in sorted(PASSED & set(given))})}",
        "server_settings": {name: given[name] for name in sorted(SETTINGS & set(given))},
    }
    ours = {name: given[name] for name in OURS & set(given)}
    # Neon's poolers are named `ENDPOINT-pooler.REGION...`, and keep no sessions on any port.
    said = given.get("pgbouncer") == "true" or given.get("statement_cache_size") == "0"
    is_transactional = said or given.get("prepared_statements") == "false" or POOLER_PORT in ports
    is_transactional = is_transactional or any("-pooler." in host for host in hosts)
    # Supabase's are named `REGION.pooler.supabase.com`. On any port but 6543 they keep sessions.
    named = any(".pooler." in host for host in hosts)
    return ServerAddress(
        hosts, ports, database, connect, is_transactional or named, named and not is_transactional, ours
    )


def _split(rest: str) -> tuple[str | None, str | None, str]:
    """User, password, and what follows them. The first `@` counts that a host, and nothing odd, comes after."""
    for match in re.finditer("@", rest):
        if _AFTER_USER.fullmatch(rest[match.end() :]):
            user, colon, password = rest[: match.start()].partition(":")
            return unquote(user), unquote(password) if colon else None, rest[match.end() :]
    return None, None, rest


def _hosts(text: str, port: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not text:
        return (), ((_port(port),) if port else ())
    found = [_HOST.fullmatch(each) for each in text.split(",")]
    if not all(found):
        raise ConfigError("the host of the database URL cannot be read; write HOST:PORT, or [IPV6]:PORT")
    pairs = [(unquote(each["host"]).strip("[]"), _port(each["port"] or port or "5432")) for each in found if each]
    return tuple(host for host, _ in pairs), tuple(number for _, number in pairs)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError("the port of the database URL must be a number from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    if not text.isdecimal():
        raise ConfigError("connect_timeout in the database URL must be a number of seconds")
    # libpq takes 0 for no limit at all. Chosen: a minute, so that a server that never answers is told all the same.
    return float(text) or 60.0

from __future__ import annotations

import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.errors import ConfigError
from aembed.stores import open_store
from aembed.stores._postgresql._url import parse
from aembed.stores.postgresql import PostgresStore

SECRET = "hunter2secret"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/db", {"user": "u", "password": "p", "host": ["h"], "port": [5432], "database": "db"}),
        ("postgres://u@h:6000/db", {"user": "u", "password": None, "port": [6000]}),
        ("postgresql+asyncpg://u:p@h/db", {"password": "p", "host": ["h"]}),
        ("postgresql+psycopg://u:p@h/db", {"password": "p", "host": ["h"]}),
        ("postgresql://u:p%23%2F@h/db", {"password": "p#/"}),
        ("postgresql://u:p#/x@h/db", {"password": "p#/x", "host": ["h"], "database": "db"}),
        ("postgresql://u:p@ss/w?d@h/db", {"password": "p@ss/w?d", "host": ["h"], "database": "db"}),
        ("postgresql://u:100%@h/db", {"password": "100%"}),
        ("postgresql://u.ref:p@aws-0-eu.pooler.supabase.com:6543/postgres", {"user": "u.ref", "port": [6543]}),
        ("postgresql://u:p@h/db?application_name=a@b", {"host": ["h"], "server_settings": {"application_name": "a@b"}}),
        ("postgresql://u:p@h1:1,h2:2/db", {"host": ["h1", "h2"], "port": [1, 2]}),
        ("postgresql://u:p@[::1]:77/db", {"host": ["::1"], "port": [77]}),
        ("postgresql://", {"host": None, "user": None, "database": None}),
        ("postgresql:///db?host=/run/pg&user=me&password=x", {"host": ["/run/pg"], "user": "me", "password": "x"}),
        (
            "postgresql://u:p@h/db?sslmode=require&sslrootcert=/a",
            {"dsn": "postgresql:///?sslmode=require&sslrootcert=%2Fa"},
        ),
        (
            "postgresql://u:p@h/db?pgbouncer=true&connection_limit=1&table=t",
            {"dsn": "postgresql:///?", "server_settings": {}},
        ),
        ("postgresql://u:p@h/db?connect_timeout=3", {"timeout": 3.0}),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: dict[str, Any]) -> None:
    connect = parse(url).connect
    assert {name: connect[name] for name in expected} == expected


PASSWORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: "@" not in text)


@given(password=PASSWORD)
def test_a_password_may_hold_any_character(password: str) -> None:
    raw = password.replace("%", "%25")
    address = parse(f"postgresql://me:{raw}@host:6000/db?sslmode=disable")
    assert (address.connect["password"], address.hosts, address.database) == (password, ("host",), "db")


@pytest.mark.parametrize(
    ("url", "behind"),
    [
        ("postgresql://u:p@h/db", False),
        ("postgresql://u:p@h:6543/db", True),
        ("postgresql://u:p@aws-0.pooler.supabase.com:5432/db", True),
        ("postgresql://u:p@h:6432/db?pgbouncer=true", True),
        ("postgresql://u:p@h:6432/db?prepared_statements=false", True),
    ],
)
def test_s7_a_pooler_is_seen_in_the_url(url: str, behind: bool) -> None:
    assert parse(url).behind_pooler is behind


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://u@aws-0-eu.pooler.supabase.com:5432/postgres", True),
        ("postgresql://u@aws-0-eu.pooler.supabase.com:6543/postgres", False),
        ("postgresql://u@ep-cool-1-pooler.us-east-2.aws.neon.tech/db", False),
        ("postgresql://u@aws-0-eu.pooler.supabase.com:5432/postgres?pgbouncer=true", False),
        ("postgresql://u@db.ref.supabase.co:5432/postgres", False),
    ],
)
def test_an_index_may_be_built_over_the_session_pooler(url: str, kept: bool) -> None:
    assert parse(url).keeps_sessions is kept


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h/a/b/c",
        f"postgresql://u:{SECRET}@h:port/db",
        f"postgresql://u:{SECRET}@h:99999/db",
        f"postgresql://u:{SECRET}@h/db?what=1",
        f"postgresql://u:{SECRET}@h/db?connect_timeout=soon",
        f"postgresql://u:{SECRET}@h/db?storage=float",
        f"postgresql://u:{SECRET}@h/db?table=a.b.c",
    ],
)
def test_z1_a_url_that_cannot_be_read_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_z1_the_password_is_in_no_repr() -> None:
    store = PostgresStore(f"postgresql://u:{SECRET}@h/db?table=app.notes")
    shown = repr(store) + repr(store._database.address) + str(store._database.address)
    assert SECRET not in shown
    assert repr(store) == '<PostgresStore table "app"."notes" in postgresql://h/db>'

"""Connection strings of libpq."""

import errno
import os
import re
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from animora_database import InvalidDsn, parse_dsn
from animora_database.connecting import open_connection
from animora_database.dsn import ARGUMENTS, TLS, TRANSLATED, WITHOUT_EFFECT

BARE = parse_dsn("host=h")
# The effect of each keyword of libpq in PostgreSQL 15 to 18; None for those reported as without effect.
LIBPQ: dict[str, tuple[str, dict[str, Any] | None]] = {
    "application_name": ("a", {"server_settings": {"application_name": "a"}}),
    "channel_binding": ("require", None),
    "client_encoding": ("auto", None),
    "connect_timeout": ("7", {"connect_timeout": 7.0}),
    "dbname": ("d", {"arguments": {"database": "d"}}),
    "fallback_application_name": ("a", {"server_settings": {"application_name": "a"}}),
    "gssdelegation": ("1", None),
    "gssencmode": ("disable", {}),
    "gsslib": ("gssapi", {"arguments": {"gsslib": "gssapi"}}),
    "host": ("k,/tmp", {"hosts": (("k", 0), ("/tmp", 0))}),
    "hostaddr": ("10.0.0.1", {"hosts": (("10.0.0.1", 0),)}),
    "keepalives": ("1", None),
    "keepalives_count": ("3", None),
    "keepalives_idle": ("3", None),
    "keepalives_interval": ("3", None),
    "krbsrvname": ("s", {"arguments": {"krbsrvname": "s"}}),
    "load_balance_hosts": ("random", {"load_balanced": True}),
    "max_protocol_version": ("3.2", None),
    "min_protocol_version": ("3.0", None),
    "oauth_client_id": ("c", None),
    "oauth_client_secret": ("c", None),
    "oauth_issuer": ("c", None),
    "oauth_scope": ("c", None),
    "options": ("-cgeqo=off", {"server_settings": {"options": "-cgeqo=off"}}),
    "passfile": ("/p", {"arguments": {"passfile": "/p"}}),
    "password": ("p", {"arguments": {"password": "p"}}),
    "port": ("5", {"hosts": (("h", 5),)}),
    "replication": ("false", {}),
    "require_auth": ("scram-sha-256", None),
    "requirepeer": ("postgres", None),
    "scram_client_key": ("k", None),
    "scram_server_key": ("k", None),
    "service": ("feed", {"arguments": {"database": "of_service"}}),
    "servicefile": ("/s", {}),
    "ssl_max_protocol_version": ("TLSv1.3", {"tls": {"ssl_max_protocol_version": "TLSv1.3"}}),
    "ssl_min_protocol_version": ("TLSv1.2", {"tls": {"ssl_min_protocol_version": "TLSv1.2"}}),
    "sslcert": ("/c", {"tls": {"sslcert": "/c"}}),
    "sslcertmode": ("allow", None),
    "sslcompression": ("0", None),
    "sslcrl": ("/c", {"tls": {"sslcrl": "/c"}}),
    "sslcrldir": ("/c", None),
    "sslkey": ("/k", {"tls": {"sslkey": "/k"}}),
    "sslkeylogfile": ("/k", None),
    "sslmode": ("verify-full", {"tls": {"sslmode": "verify-full"}}),
    "sslnegotiation": ("postgres", {"tls": {"sslnegotiation": "postgres"}}),
    "sslpassword": ("p", {"tls": {"sslpassword": "p"}}),
    "sslrootcert": ("/c", {"tls": {"sslrootcert": "/c"}}),
    "sslsni": ("1", None),
    "target_session_attrs": ("primary", {"session_attributes": ("primary",)}),
    "tcp_user_timeout": ("9", None),
    "user": ("u", {"arguments": {"user": "u"}}),
}

# Strings of hosting providers; the test's own host replaces theirs.
HANDED_OUT = [
    "sslmode=disable&channel_binding=require",
    "connect_timeout=15&sslmode=disable",
    "sslmode=prefer&gssencmode=disable&target_session_attrs=read-write",
    "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5&tcp_user_timeout=10000",
    "fallback_application_name=psql&client_encoding=UTF8&sslcompression=0",
    "pgbouncer=true&connection_limit=1&pool_timeout=15",
    "options=-c%20statement_timeout%3D5min&application_name=feed",
    "load_balance_hosts=random&sslsni=1&sslcertmode=allow&require_auth=none&requirepeer=",
    "target_session_attrs=prefer-standby",
]


def connect(dsn, **arguments):
    return open_connection(parse_dsn(dsn), 10.0, "a test", **arguments)


async def select(dsn, query="select 1"):
    connection = await connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        connection.terminate()


@pytest.fixture
def service_file(tmp_path, monkeypatch):
    file = tmp_path / "services"
    file.write_text("# of the feed\n[other]\nhost=x\n\n[feed]\ndbname=of_service\n[another]\nhost=y\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return file


@pytest.mark.parametrize("name", LIBPQ)
@pytest.mark.parametrize("form", ["host=h {}={}", "postgresql://h?{}={}"])
def test_every_libpq_option_is_used_translated_or_reported_as_without_effect(name, form, service_file):
    value, changes = LIBPQ[name]

    expected = replace(BARE, without_effect=(name,)) if changes is None else replace(BARE, **changes)
    assert parse_dsn(form.format(name, value)) == expected


def test_only_options_of_libpq_and_known_drivers_are_accepted():
    others = {"ssl", "requiressl", "connection_limit", "pgbouncer", "pool_timeout", "socket_timeout", "supa"}
    assert {*ARGUMENTS, *TLS, *TRANSLATED, *WITHOUT_EFFECT} - {*LIBPQ} == others | {"workaround"}


@pytest.mark.parametrize("options", HANDED_OUT)
async def test_connection_strings_of_hosting_providers_connect(postgres_url, options):
    assert await select(f"{postgres_url}&{options}") == 1


async def test_key_value_pairs_connect(postgres_url):
    options = parse_dsn(postgres_url)
    ((host, _),) = options.hosts
    user, name = options.arguments["user"], options.arguments["database"]

    assert await select(f"host='{host}' user = {user} dbname={name} sslmode=disable") == 1


async def test_the_session_has_the_name_and_the_parameters_of_the_string(postgres_url):
    shown = "select current_setting('application_name')"

    assert await select(postgres_url, shown) == "a test"
    assert await select(f"{postgres_url}&application_name=feed&fallback_application_name=no", shown) == "feed"
    assert await select(f"{postgres_url}&fallback_application_name=other", shown) == "other"
    timeout = "select current_setting('statement_timeout')"
    assert await select(f"{postgres_url}&options=-c%20statement_timeout%3D7s", timeout) == "7s"


async def test_after_an_unreachable_host_the_next_is_tried(postgres_url):
    ((host, _),) = parse_dsn(postgres_url).hosts
    database = parse_dsn(postgres_url).arguments["database"]

    assert await select(f"postgresql://animora@/{database}?host=/nowhere,{host}&sslmode=disable") == 1


async def test_a_host_without_the_target_session_attributes_is_skipped(postgres_url):
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await select(f"{postgres_url}&target_session_attrs=standby")


def test_a_password_may_have_any_character_that_a_uri_allows():
    options = parse_dsn("postgresql://u%40x:a#b?c[d]+%2f%25@h:5/db?sslmode=require")

    assert options.arguments == {"user": "u@x", "password": "a#b?c[d]+/%", "database": "db"}
    assert options.hosts == (("h", 5),)


def test_an_ampersand_may_end_a_uri():
    assert parse_dsn("postgresql://h/db?user=u&").arguments == {"database": "db", "user": "u"}


def test_a_socket_folder_may_be_the_host_of_a_uri():
    assert parse_dsn("postgresql://%2Fvar%2Frun:7,h/db").hosts == (("/var/run", 7), ("h", 0))


def test_several_hosts_have_ports_of_their_own():
    assert parse_dsn("postgres://a:1,b,[::1]:3/db").hosts == (("a", 1), ("b", 0), ("::1", 3))
    assert parse_dsn("host=a,b port=7").hosts == (("a", 7), ("b", 7))
    assert parse_dsn("host=a hostaddr=10.0.0.1").hosts == (("10.0.0.1", 0),)


def test_values_in_pairs_may_be_quoted():
    options = parse_dsn(r"host = h user='it\'s me' password=a\ b  dbname=''")

    assert options.arguments == {"user": "it's me", "password": "a b"}
    assert parse_dsn("host=h password=a'b\\").arguments == {"password": "a'b"}
    assert parse_dsn("user='a'password='b'").arguments == {"user": "a", "password": "b"}


def test_the_connect_timeout_is_that_of_the_string():
    assert parse_dsn("postgresql://h").connect_timeout is None
    assert parse_dsn("postgresql://h?connect_timeout=0").connect_timeout is None
    assert parse_dsn("postgresql://h?connect_timeout=1").connect_timeout == 2
    assert parse_dsn("postgresql://h?connect_timeout=30").connect_timeout == 30


def test_options_without_effect_are_reported():
    options = parse_dsn("postgresql://h?keepalives=1&sslmode=require&channel_binding=require")

    assert options.without_effect == ("keepalives", "channel_binding")


async def test_certificates_are_verified_against_the_systems_roots(postgres_url):
    assert await select(f"{postgres_url.partition('&sslmode')[0]}&sslrootcert=system") == 1


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("", "not a DSN"),
        ("secret", "not a DSN"),
        ("mysql://u:secret@h/db", "its scheme is 'mysql'"),
        ("postgresql+asyncpg://u:secret@h/db", "its scheme is 'postgresql+asyncpg'"),
        ("postgresql://u@h:secret/db", "port must be a number from 1 to 65535"),
        ("postgresql://h:70000/db", "port must be a number from 1 to 65535"),
        ("postgresql://h:99999999999999999999999999999/db", "port must be a number"),
        ("postgresql://[::1/db", "not a DSN"),
        (f"postgresql://{'secret' * 20}/db", "not a host's name"),
        ("postgresql://u:secret%zz@h/db", "password: a '%' is written %25"),
        ("postgresql://u:%ff@h/db", "password: not UTF-8"),
        ("postgresql://u:%00@h/db", "password: has a zero byte"),
        ("postgresql://h/db?sslmode", "an option without a value"),
        ("postgresql://h/db?sslmode=secret", "sslmode: must be disable or"),
        ("postgresql://h/db?conect_timeout=3", "unknown option 'conect_timeout'"),
        ("host=h conect_timeout=3", "unknown option 'conect_timeout'"),
        ("host=h password='secret", "not a DSN"),
        ("host=h,k,l port=1,2", "port: must have one entry, or as many as host"),
        ("host=h,k hostaddr=10.0.0.1", "hostaddr: must have as many entries as host"),
        ("postgresql://h?connect_timeout=soon", "connect_timeout: must be a whole number"),
        ("postgresql://h?gssencmode=require", "gssencmode: must be disable or prefer"),
        ("postgresql://h?replication=database", "replication: must be"),
        ("postgresql://h?target_session_attrs=master", "target_session_attrs: must be any or"),
        ("postgresql://h?sslrootcert=system&sslmode=require", "sslmode: must be verify-full"),
        ("postgresql://h?sslnegotiation=direct", "sslnegotiation: direct takes sslmode=require"),
        ("postgresql://h?ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version: must be TLSv1 or"),
    ],
)
def test_an_invalid_option_is_named_without_its_value(dsn, error):
    with pytest.raises(InvalidDsn, match=re.escape(error)) as refusal:
        parse_dsn(dsn)

    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("path", ["/nowhere/ca.pem", f"/{'x' * 300}/ca.pem"])
def test_a_missing_file_is_named_by_its_option(path):
    with pytest.raises(InvalidDsn, match="sslrootcert: there is no such file"):
        parse_dsn(f"postgresql://h?sslmode=verify-full&sslrootcert={path}").check_files()


def test_a_file_in_an_inaccessible_folder_is_named_by_its_option(monkeypatch):
    def refused(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    options = parse_dsn("host=h sslkey=/etc/ssl/private/key.pem")
    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(InvalidDsn, match="sslkey: there is no such file, or its folder may not be entered"):
        options.check_files()


async def test_a_service_completes_the_string(postgres_url, service_file):
    ((host, _),) = parse_dsn(postgres_url).hosts
    arguments = parse_dsn(postgres_url).arguments
    service_file.write_text(
        f"[feed]\nhost={host}\nuser={arguments['user']}\ndbname=other\nsslmode=disable\nconnect_timeout=9\n"
        "application_name=of_service\n"
    )
    dsn = f"service=feed dbname={arguments['database']}"

    assert parse_dsn(dsn).connect_timeout == 9
    assert await select(dsn, "select current_setting('application_name')") == "of_service"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "service: no pg_service.conf has it"),
        ("[feeds]\nhost=secret\n", "service: no pg_service.conf has it"),
        ("[feed]\nhost=h\nsecret\n", "line 3: must be an option of a connection"),
        ("[feed]\nservice=secret\n", "line 2: must be an option of a connection"),
        ("[feed]\nconect_timeout=secret\n", "unknown option 'conect_timeout'"),
        ("[feed]\nsslmode=secret\n", "sslmode: must be disable or"),
    ],
)
def test_an_unusable_service_is_named_without_its_values(content, error, service_file):
    service_file.write_text(content)
    with pytest.raises(InvalidDsn, match=re.escape(error)) as refusal:
        parse_dsn("postgresql://?service=feed")

    assert "secret" not in str(refusal.value)


def test_a_named_service_file_must_exist(tmp_path):
    (tmp_path / "own").write_text("[feed]\nhost=h\n")

    assert parse_dsn(f"service=feed servicefile={tmp_path / 'own'}").hosts == (("h", 0),)
    with pytest.raises(InvalidDsn, match="servicefile: there is no such file"):
        parse_dsn(f"service=feed servicefile={tmp_path / 'none'}")

"""Connection strings as libpq takes them."""

import re

import asyncpg
import pytest

from animora_database import InvalidDsn, parse_dsn
from animora_database.connecting import open_connection
from animora_database.dsn import ARGUMENTS, TLS, TRANSLATED, WITHOUT_EFFECT

# The key words of PostgreSQL 18's libpq.
LIBPQ = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
]

# As providers hand them out; the hosts are replaced by one that is here.
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


@pytest.mark.parametrize("name", LIBPQ)
def test_every_option_of_libpq_is_known(name):
    assert name in {*ARGUMENTS, *TLS, *TRANSLATED, *WITHOUT_EFFECT}


@pytest.mark.parametrize("options", HANDED_OUT)
async def test_strings_that_providers_hand_out_connect(postgres_url, options):
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


async def test_a_host_that_is_away_is_followed_by_the_next(postgres_url):
    ((host, _),) = parse_dsn(postgres_url).hosts
    database = parse_dsn(postgres_url).arguments["database"]

    assert await select(f"postgresql://animora@/{database}?host=/nowhere,{host}&sslmode=disable") == 1


async def test_a_host_without_the_session_attributes_is_passed_over(postgres_url):
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await select(f"{postgres_url}&target_session_attrs=standby")


def test_a_password_may_have_any_character_that_a_uri_leaves_to_it():
    options = parse_dsn("postgresql://u%40x:a#b?c[d]+%2f%25@h:5/db?sslmode=require")

    assert options.arguments == {"user": "u@x", "password": "a#b?c[d]+/%", "database": "db"}
    assert options.hosts == (("h", 5),)


def test_several_hosts_have_ports_of_their_own():
    assert parse_dsn("postgres://a:1,b,[::1]:3/db").hosts == (("a", 1), ("b", 0), ("::1", 3))
    assert parse_dsn("host=a,b port=7").hosts == (("a", 7), ("b", 7))
    assert parse_dsn("host=a hostaddr=10.0.0.1").hosts == (("10.0.0.1", 0),)


def test_values_in_pairs_may_be_quoted():
    options = parse_dsn(r"host = h user='it\'s me' password=a\ b  dbname=''")

    assert options.arguments == {"user": "it's me", "password": "a b"}


def test_the_time_to_connect_is_the_strings():
    assert parse_dsn("postgresql://h").connect_timeout is None
    assert parse_dsn("postgresql://h?connect_timeout=0").connect_timeout is None
    assert parse_dsn("postgresql://h?connect_timeout=1").connect_timeout == 2
    assert parse_dsn("postgresql://h?connect_timeout=30").connect_timeout == 30


def test_options_without_effect_are_reported():
    options = parse_dsn("postgresql://h?keepalives=1&sslmode=require&channel_binding=require")

    assert options.without_effect == ("keepalives", "channel_binding")


async def test_certificates_are_checked_against_the_systems_roots(postgres_url):
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
def test_what_cannot_be_used_is_named_and_not_quoted(dsn, error):
    with pytest.raises(InvalidDsn, match=re.escape(error)) as refusal:
        parse_dsn(dsn)

    assert "secret" not in str(refusal.value)


def test_a_file_that_is_not_there_is_named_by_its_option():
    with pytest.raises(InvalidDsn, match="sslrootcert: there is no such file"):
        parse_dsn("postgresql://h?sslmode=verify-full&sslrootcert=/nowhere/ca.pem").check_files()

"""Parses libpq connection strings for asyncpg, which supports only a part of libpq's options.

Both forms are read: a URI (`postgresql://user@host:5432/name?sslmode=require`) and a list of `key=value`.
An option that asyncpg lacks is translated, or ignored and reported; an unknown one is refused. No error
quotes a value, since any value may be a password.

See "Connection Strings" and "Parameter Key Words" in PostgreSQL's documentation of libpq.
"""

import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote_to_bytes, urlencode

from animora_database.errors import InvalidDsn
from animora_database.service_file import service_options
from animora_process.password_file import PasswordFile

SCHEMES = ("postgresql://", "postgres://")

# Options under the names of asyncpg.connect's arguments.
ARGUMENTS = {
    "user": "user",
    "password": "password",
    "passfile": "passfile",
    "dbname": "database",
    "krbsrvname": "krbsrvname",
    "gsslib": "gsslib",
}
# asyncpg accepts these only in a URI.
TLS = (
    "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version",
)  # fmt: skip
TRANSLATED = (
    "host", "hostaddr", "port", "connect_timeout", "target_session_attrs", "load_balance_hosts",
    "application_name", "fallback_application_name", "options", "ssl", "gssencmode", "replication",
    "service", "servicefile",
)  # fmt: skip
# Not supported by asyncpg; ignored and reported.
WITHOUT_EFFECT = (
    "channel_binding", "client_encoding", "gssdelegation", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "max_protocol_version", "min_protocol_version",
    "oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope", "require_auth", "requirepeer",
    "requiressl", "scram_client_key", "scram_server_key", "sslcertmode", "sslcompression", "sslcrldir",
    "sslkeylogfile", "sslsni", "tcp_user_timeout",
    # Options of Prisma and of hosted poolers, common in connection strings of providers.
    "connection_limit", "pgbouncer", "pool_timeout", "socket_timeout", "supa", "workaround",
)  # fmt: skip
FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "passfile")

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
VALUES = {
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
    "gssencmode": ("disable", "prefer"),  # asyncpg cannot encrypt by GSSAPI, so not "require"
    "gsslib": ("gssapi", "sspi"),
    "ssl_min_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl": ("true",),
    "replication": ("false", "off", "no", "0"),
}
SYSTEM_ROOTS = "system"  # as sslrootcert: the certification authorities of the operating system
NOT_A_DSN = "not a DSN, such as postgresql://user@host:5432/name or host=host dbname=name"
DEFAULT_PORT = 5432
HIGHEST_PORT = 65535
LOWEST_CONNECT_TIMEOUT = 2  # seconds; libpq takes 1 for 2

_HOST = re.compile(r"(?:\[(?P<v6>[^]]*)\]|(?P<host>[^:,/?]*))(?::(?P<port>[^,/?]*))?(?P<end>[,/?]?)")
_PAIR = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?!')(?:[^\s\\]|\\.|\\$)*))", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{,20})://")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """A parsed connection string.

    Attributes:
        hosts: Hosts in the order of attempts: host name, address or socket directory, and port. An empty host
            or a port of 0 leaves it to the driver.
        arguments: Arguments of asyncpg.connect that are the same for all hosts.
        tls: libpq's TLS options, in asyncpg's spelling.
        server_settings: Session parameters.
        session_attributes: Accepted target_session_attrs, in the order of preference.
        connect_timeout: Seconds for each host; None if not given.
        load_balanced: Whether the hosts are tried in random order.
        without_effect: Options that are ignored.
        password_file: The file that holds the password, if it is in no option.
    """

    hosts: tuple[tuple[str, int], ...]
    arguments: Mapping[str, str]
    tls: Mapping[str, str]
    server_settings: Mapping[str, str]
    session_attributes: tuple[str, ...]
    connect_timeout: float | None
    load_balanced: bool
    without_effect: tuple[str, ...]
    password_file: PasswordFile | None = None

    @property
    def trusts_system_roots(self) -> bool:
        """Whether the operating system's certification authorities are used."""
        return self.tls.get("sslrootcert") == SYSTEM_ROOTS

    def attempts(self) -> Iterator[dict[str, Any]]:
        """Arguments of asyncpg.connect for each attempt, in order."""
        hosts = list(self.hosts)
        if self.load_balanced:
            random.shuffle(hosts)
        places = [_place(host, port) for host, port in hosts]
        tls = {} if self.trusts_system_roots else {"dsn": f"postgresql://?{urlencode(self.tls)}"}
        for attributes in self.session_attributes:
            for place in places:
                yield {**self.arguments, **tls, **place, "target_session_attrs": attributes}

    def with_password_file(self, path: Path | None) -> Self:
        """The same options with the password of a file; a path of None changes nothing.

        Raises:
            InvalidDsn: The string has a password too.
            PasswordFileError: The file cannot be used.
        """
        if path is None:
            return self
        if own := {"password", "passfile"} & self.arguments.keys():
            raise InvalidDsn(f"has a {own.pop()} of its own: give the password there or in the password file")
        return replace(self, password_file=PasswordFile(path))

    def check_files(self) -> None:
        """Checks that the files in the string exist.

        Raises:
            InvalidDsn: A file is missing.
        """
        named = {**self.arguments, **self.tls}
        for name in FILES:
            path = named.get(name)
            if not path or (name == "sslrootcert" and path == SYSTEM_ROOTS):
                continue
            if not os.path.isfile(path):  # Path's own raises where a folder may not be entered
                raise InvalidDsn(f"{name}: there is no such file, or its folder may not be entered")


def parse_dsn(dsn: str) -> ConnectionOptions:
    """Reads a connection string.

    Raises:
        InvalidDsn: The string has neither of the two forms, an option in it or in its service is unknown or
            has an invalid value, or the service does not exist.
    """
    scheme = next((scheme for scheme in SCHEMES if dsn.startswith(scheme)), None)
    options = dict(_of_pairs(dsn) if scheme is None else _of_uri(dsn[len(scheme) :]))
    if service := options.get("service"):
        options = service_options(service, options.get("servicefile")) | options
    for name in options:
        if name not in {*ARGUMENTS, *TLS, *TRANSLATED, *WITHOUT_EFFECT}:
            raise InvalidDsn(
                f"unknown option {name[:40]!r}; a parameter of the server is set with options=-c name=value"
            )
    # As in libpq, an empty value is none.
    options = {name: _checked(name, value) for name, value in options.items() if value}
    shown_as = options.get("application_name") or options.get("fallback_application_name", "")
    settings = {"application_name": shown_as, "options": options.get("options", "")}
    wanted = options.get("target_session_attrs", "any")
    return ConnectionOptions(
        hosts=_hosts(options),
        arguments={ARGUMENTS[name]: value for name, value in options.items() if name in ARGUMENTS},
        tls=_tls(options),
        server_settings={name: value for name, value in settings.items() if value},
        session_attributes=("standby", "any") if wanted == "prefer-standby" else (wanted,),
        connect_timeout=_connect_timeout(options),
        load_balanced=options.get("load_balance_hosts") == "random",
        without_effect=tuple(name for name in options if name in WITHOUT_EFFECT),
    )


def _of_uri(rest: str) -> Iterator[tuple[str, str]]:
    """The options of a URI without its scheme, as libpq's conninfo_uri_parse_options reads them."""
    credentials, at, after = rest.partition("@")
    if at and "/" not in credentials:
        user, colon, password = credentials.partition(":")
        yield "user", _decoded("user", user)
        if colon:
            yield "password", _decoded("password", password)
        rest = after
    hosts, ports = [], []
    position, end = 0, ","
    while end == ",":
        found = _HOST.match(rest, position)
        if found is None or (not found["end"] and found.end() != len(rest)):
            raise InvalidDsn(NOT_A_DSN)
        hosts.append(_decoded("host", found["v6"] if found["v6"] is not None else found["host"]))
        ports.append(_decoded("port", found["port"] or ""))
        position, end = found.end(), found["end"]
    if any(hosts):
        yield "host", ",".join(hosts)
    if any(ports):
        yield "port", ",".join(ports)
    path, _, query = (rest[position:] if end == "/" else f"?{rest[position:]}").partition("?")
    if path:
        yield "dbname", _decoded("dbname", path)
    for pair in query.removesuffix("&").split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidDsn("an option without a value; a '&' in a value is written %26")
        name = _decoded("an option's name", name)
        # asyncpg takes "database" too, and older strings of ours may have it.
        yield ("dbname" if name == "database" else name), _decoded(name, value)


def _of_pairs(text: str) -> Iterator[tuple[str, str]]:
    """The options of `key=value key='a value'`."""
    position, text = 0, text.rstrip()
    if scheme := _SCHEME.match(text):
        raise InvalidDsn(f"{NOT_A_DSN}: its scheme is {scheme[1]!r}")
    if "=" not in text:
        raise InvalidDsn(NOT_A_DSN)
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            raise InvalidDsn(NOT_A_DSN)
        name, quoted, plain = found.groups()
        yield name, re.sub(r"\\(.?)", r"\1", plain if quoted is None else quoted, flags=re.DOTALL)
        position = found.end()


def _decoded(name: str, text: str) -> str:
    if _PERCENT.search(text):
        raise InvalidDsn(f"{name}: a '%' is written %25")
    try:
        value = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidDsn(f"{name}: not UTF-8") from None
    if "\0" in value:
        raise InvalidDsn(f"{name}: has a zero byte")
    return value


def _checked(name: str, value: str) -> str:
    """A value in the spelling of VALUES."""
    possible = VALUES.get(name)
    if possible is None:
        return value
    for one in possible:
        if one.lower() == value.lower():
            return one
    raise InvalidDsn(f"{name}: must be {' or '.join(possible)}")


def _hosts(options: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """The hosts with their ports; an address stands for its host, unless certificates name the host."""
    names = options.get("host", "").split(",")
    addresses = options.get("hostaddr", "").split(",")
    if "hostaddr" in options:
        if "host" not in options:
            names = addresses
        elif len(names) != len(addresses):
            raise InvalidDsn("hostaddr: must have as many entries as host")
        elif options.get("sslmode") != "verify-full":
            names = [address or name for name, address in zip(names, addresses, strict=True)]
    ports = options.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        raise InvalidDsn("port: must have one entry, or as many as host")
    return tuple((_host(name), _port(port)) for name, port in zip(names, ports, strict=True))


def _place(host: str, port: int) -> dict[str, Any]:
    """A host and its port as asyncpg.connect takes them; it looks for what is left out in the environment."""
    if not host:
        return {"port": port} if port else {}
    return {"host": [host], "port": [port or DEFAULT_PORT]}


def _host(name: str) -> str:
    try:
        name.encode("idna")
    except UnicodeError:
        if not name.startswith("/"):
            raise InvalidDsn(f"{NOT_A_DSN}: its host is not a host's name") from None
    return name


def _port(text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= HIGHEST_PORT:
        raise InvalidDsn(f"{NOT_A_DSN}: its port must be a number from 1 to {HIGHEST_PORT}")
    return int(text)


def _tls(options: Mapping[str, str]) -> dict[str, str]:
    tls = {name: options[name] for name in TLS if name in options}
    if "ssl" in options:  # JDBC's
        tls.setdefault("sslmode", "require")
    if tls.get("sslrootcert") == SYSTEM_ROOTS and tls.setdefault("sslmode", "verify-full") != "verify-full":
        raise InvalidDsn("sslmode: must be verify-full with sslrootcert=system")
    if tls.get("sslnegotiation") == "direct" and tls.get("sslmode") not in SSL_MODES[3:]:
        raise InvalidDsn("sslnegotiation: direct takes sslmode=require, verify-ca or verify-full")
    return tls


def _connect_timeout(options: Mapping[str, str]) -> float | None:
    text = options.get("connect_timeout", "0")
    try:
        seconds = int(text)
    except ValueError:
        raise InvalidDsn("connect_timeout: must be a whole number of seconds") from None
    return float(max(seconds, LOWEST_CONNECT_TIMEOUT)) if seconds > 0 else None

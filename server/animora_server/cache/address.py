"""Parses `cache.url`: a single server, the Sentinels of a primary, or the nodes of a Cluster."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from redis.asyncio.connection import SSLConnection, parse_url

Hosts = tuple[tuple[str, int], ...]

REDIS_PORT = 6379
SENTINEL_PORT = 26379
# Options of the connections to the Sentinels, not of those to the servers that they watch.
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


class UnusableOption(ValueError):
    """An option in the URL's query that does not exist or has an unusable value. Its text holds no secret."""


def _is_natural(value: str) -> bool:
    return value.isascii() and value.isdecimal()


def _is_positive(value: str) -> bool:
    return _is_natural(value) and int(value) > 0


def _is_client_name(value: str) -> bool:
    return all("!" <= letter <= "~" for letter in value)  # the letters that CLIENT SETNAME takes


def _is_readable(path: str) -> bool:
    return os.access(path, os.R_OK)


def _is_anything(_: str) -> bool:
    return True


# What the URL's query may set, and the check of each value. redis-py itself finds most wrong values only when
# it connects: the server would run and never use its cache.
OPTIONS: dict[str, Callable[[str], bool]] = {
    "client_name": _is_client_name,
    "db": _is_natural,
    "health_check_interval": _is_natural,
    "host": _is_anything,
    "password": _is_anything,
    "port": _is_natural,
    "sentinel_password": _is_anything,
    "sentinel_username": _is_anything,
    "socket_keepalive": _is_anything,
    "socket_read_size": _is_positive,
    "ssl_ca_certs": _is_readable,
    "ssl_ca_data": _is_anything,
    "ssl_ca_path": _is_readable,
    "ssl_cert_reqs": _is_anything,
    "ssl_certfile": _is_readable,
    "ssl_check_hostname": _is_anything,
    "ssl_ciphers": _is_anything,
    "ssl_exclude_verify_flags": _is_anything,
    "ssl_include_verify_flags": _is_anything,
    "ssl_keyfile": _is_readable,
    "ssl_min_version": _is_natural,
    "ssl_password": _is_anything,
    "username": _is_anything,
}
# What the server decides itself. URLs that are shared with other programs may hold these; they are ignored.
IGNORED_OPTIONS = {
    "decode_responses", "encoding", "encoding_errors", "legacy_responses", "lib_name", "lib_version",
    "max_connections", "protocol", "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
    "socket_timeout", "timeout",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SingleAddress:
    """A single server; options of redis-py's connections."""

    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """A primary that is looked up at Sentinels.

    Attributes:
        sentinels: Hosts and ports.
        service: The Sentinels' name of the primary.
        options: Options of redis-py's connections to the primary.
        sentinel_options: Options of redis-py's connections to the Sentinels.
    """

    sentinels: Hosts
    service: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A Redis Cluster: hosts and ports of some of its nodes; options of redis-py's connections."""

    nodes: Hosts
    options: dict[str, Any]


Address = SingleAddress | SentinelAddress | ClusterAddress


def parse_address(url: str) -> Address:
    """Parses a URL such as `redis://host:6379/0`, `rediss+sentinel://s1,s2:26379/primary/0` or `redis+cluster://host`.

    Raises:
        UnusableOption: An option in the query does not exist or has an unusable value.
        ValueError: The URL is malformed or lacks a part.
    """
    url = _with_checked_options(url)
    scheme, _, topology = url.partition("://")[0].partition("+")
    parts, hosts = _split(url)
    if not topology:
        if scheme != "unix":  # the path of unix:// is the socket's
            _require_database(parts.path.strip("/"))
        return SingleAddress(dict(parse_url(url)))
    if topology == "sentinel":
        return _watched(scheme, parts, _hosts(hosts, SENTINEL_PORT))
    if topology == "cluster":
        if parts.path.strip("/"):
            raise ValueError("a ClusterAddress has no databases and no service")
        return ClusterAddress(_hosts(hosts, REDIS_PORT), _options(scheme, parts, ""))
    raise ValueError(f"no such kind of Redis: {topology}")


def _with_checked_options(url: str) -> str:
    """The URL without IGNORED_OPTIONS. Raises UnusableOption."""
    rest, mark, query = url.partition("#")[0].partition("?")
    kept = []
    for part in query.split("&"):
        for name, value in parse_qsl(part):  # one at most; redis-py leaves out blank values, too
            if name in IGNORED_OPTIONS:
                continue
            if name not in OPTIONS:
                raise UnusableOption(f"there is no option {name}")
            if not OPTIONS[name](unquote(value)):  # redis-py unquotes a second time
                raise UnusableOption(f"the value of the option {name} cannot be used")
            kept.append(part)
    return rest + (mark + "&".join(kept) if kept else "")


def _split(url: str) -> tuple[SplitResult, str]:
    """A URL with one host in place of the list of hosts, and the list. urlsplit refuses some such lists."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    credentials, at, hosts = authority.rpartition("@")
    return urlsplit(f"{scheme}://{credentials}{at}host{rest[len(authority) :]}"), hosts


def _watched(scheme: str, parts: SplitResult, sentinels: Hosts) -> SentinelAddress:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the path must name the primary, as in /service or /service/0")
    options = _options(scheme, parts, database)
    credentials = {name: options.pop(ours) for ours, name in SENTINEL_OPTIONS.items() if ours in options}
    encryption = {name: value for name, value in options.items() if name.startswith("ssl")}
    return SentinelAddress(sentinels, unquote(service), options, credentials | encryption)


def _options(scheme: str, parts: SplitResult, database: str) -> dict[str, Any]:
    """The options that redis-py finds in the URL of one server with the same credentials and query."""
    user, at, _ = parts.netloc.rpartition("@")
    _require_database(database)
    single = urlunsplit((scheme, f"{user}{at}host", f"/{database}", parts.query, ""))
    options: dict[str, Any] = dict(parse_url(single))
    del options["host"]
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options


def _require_database(database: str) -> None:
    """Raises ValueError for a database that is no number; redis-py takes it for database 0."""
    if database and not database.isdecimal():
        raise ValueError("a database is a number")


def _hosts(text: str, default_port: int) -> Hosts:
    hosts = [urlsplit(f"//{host}") for host in text.split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError("a host is missing")
    return tuple((unquote(host.hostname or ""), host.port or default_port) for host in hosts)

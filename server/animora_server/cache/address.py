"""Where Redis is: a URL of a single server, of Sentinels that know the primary, or of a Cluster's nodes."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from redis.asyncio.connection import SSLConnection, parse_url

Hosts = tuple[tuple[str, int], ...]

REDIS_PORT = 6379
SENTINEL_PORT = 26379
# Options that say how Sentinels, and not the servers that they watch, are talked to.
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class Single:
    """One server, or whatever answers at its address; options for redis-py's connection."""

    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Watched:
    """The primary that Sentinels name.

    Attributes:
        sentinels: Hosts and ports.
        service: What the Sentinels call the primary.
        options: For connections to the primary; redis-py's.
        sentinel_options: For connections to the Sentinels.
    """

    sentinels: Hosts
    service: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Redis Cluster, by some of its nodes' hosts and ports; options for redis-py's connection."""

    nodes: Hosts
    options: dict[str, Any]


def parse_address(url: str) -> Single | Watched | Cluster:
    """Reads a URL such as `redis://host:6379/0`, `rediss+sentinel://s1,s2:26379/primary/0` or `redis+cluster://host`.

    Raises:
        ValueError: It is none, or lacks a part.
    """
    scheme, _, topology = url.partition("://")[0].partition("+")
    parts, hosts = _split(url)
    if not topology:
        if scheme != "unix":  # whose path is the socket's
            _require_database(parts.path.strip("/"))
        return Single(dict(parse_url(url)))
    if topology == "sentinel":
        return _watched(scheme, parts, _hosts(hosts, SENTINEL_PORT))
    if topology == "cluster":
        if parts.path.strip("/"):
            raise ValueError("a Cluster has no databases and no service")
        return Cluster(_hosts(hosts, REDIS_PORT), _options(scheme, parts, ""))
    raise ValueError(f"no such kind of Redis: {topology}")


def _split(url: str) -> tuple[SplitResult, str]:
    """A URL with one host in place of its list, and the list: urlsplit may refuse it for an IPv6 address."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    credentials, at, hosts = authority.rpartition("@")
    return urlsplit(f"{scheme}://{credentials}{at}host{rest[len(authority) :]}"), hosts


def _watched(scheme: str, parts: SplitResult, sentinels: Hosts) -> Watched:
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the path must name the primary, as in /service or /service/0")
    options = _options(scheme, parts, database)
    credentials = {theirs: options.pop(ours) for ours, theirs in SENTINEL_OPTIONS.items() if ours in options}
    encryption = {name: value for name, value in options.items() if name.startswith("ssl")}
    return Watched(sentinels, unquote(service), options, credentials | encryption)


def _options(scheme: str, parts: SplitResult, database: str) -> dict[str, Any]:
    """What redis-py makes of the URL of one server with the same credentials and options."""
    user, at, _ = parts.netloc.rpartition("@")
    _require_database(database)
    single = urlunsplit((scheme, f"{user}{at}host", f"/{database}", parts.query, ""))
    options: dict[str, Any] = dict(parse_url(single))
    del options["host"]
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options


def _require_database(database: str) -> None:
    """What redis-py takes for none, and so for database 0. Raises ValueError."""
    if database and not database.isdecimal():
        raise ValueError("a database is a number")


def _hosts(listed: str, default_port: int) -> Hosts:
    hosts = [urlsplit(f"//{host}") for host in listed.split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError("a host is missing")
    return tuple((unquote(host.hostname or ""), host.port or default_port) for host in hosts)

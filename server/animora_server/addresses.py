"""Resolves hosts, binds ports, and reports which option to change if that fails."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from animora_server.errors import ConfigurationError

ATTEMPTS = 16  # to find a port that is free at all addresses of a host
# A host name may resolve to addresses that this machine does not have or support.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Address(NamedTuple):
    """An address to listen on."""

    family: socket.AddressFamily
    address: Any


def addresses(section: str, host: str, port: int) -> list[Address]:
    """The distinct addresses of a host.

    Raises:
        ConfigurationError: The host cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"{section}.host: {host} is not an address of this machine") from error
    return list(dict.fromkeys(Address(family, address) for family, _, _, _, address in found))


def bind(address: Address, *options: int) -> socket.socket:
    """Binds a socket to an address, with some SOL_SOCKET options set to 1. Raises OSError."""
    bound = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address.address)
    except OSError:
        bound.close()
        raise
    return bound


def bind_all(section: str, host: str, port: int, *options: int) -> list[socket.socket]:
    """Binds one port at each address of a host that this machine has.

    Args:
        section: The section of the options `host` and `port`, for errors.
        host: A name or an address.
        port: 0 for a port that is free at all addresses.
        options: SOL_SOCKET options, as for `bind`.

    Raises:
        ConfigurationError: The port is taken at one of the addresses, or the machine has none of them.
    """
    for _ in range(ATTEMPTS):
        with ExitStack() as opened:
            try:
                bound = _bind_each(addresses(section, host, port), opened, options)
            except OSError as error:
                failure = error
                if port or error.errno != errno.EADDRINUSE:
                    break
            else:
                opened.pop_all()
                return bound
    raise cannot_listen(section, host, port, failure)


def _bind_each(found: list[Address], opened: ExitStack, options: tuple[int, ...]) -> list[socket.socket]:
    """Binds to each address that this machine has. Raises OSError if it has none."""
    bound: list[socket.socket] = []
    failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, (name, port, *rest) in found:
        at = name, port or (bound[0].getsockname()[1] if bound else 0), *rest
        try:
            bound.append(opened.enter_context(bind(Address(family, at), *options)))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            failure = error
    if not bound:
        raise failure
    return bound


def require_free(section: str, host: str, port: int) -> None:
    """Checks that a port is free at all addresses of a host.

    gRPC starts if one of several addresses is free; part of the clients would then reach another process.

    Raises:
        ConfigurationError: The port is taken, or the machine has no address of the host.
    """
    for bound in bind_all(section, host, port, socket.SO_REUSEADDR):
        bound.close()


@contextmanager
def reserve_port(section: str, host: str, port: int) -> Iterator[int]:
    """Binds a port that processes of this user share (SO_REUSEPORT), without listening on it.

    Each of the processes listens on the port, and the kernel distributes new connections over them.

    Yields:
        The port; with `port` 0, the one that the system chose.

    Raises:
        ConfigurationError: The port is taken, or the system does not support SO_REUSEPORT.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError(
            f"{section}.workers: this system does not support shared ports (SO_REUSEPORT); set 1"
        )
    # With SO_REUSEPORT alone, a second server of this user would take connections from the first.
    require_free(section, host, port)
    with ExitStack() as stack:
        bound = bind_all(section, host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        for each in bound:
            stack.enter_context(each)
        yield bound[0].getsockname()[1]


def cannot_listen(section: str, host: str, port: int, error: OSError | None = None) -> ConfigurationError:
    """The error for a port that cannot be bound; `error` is None from gRPC, which gives no reason."""
    why = f" ({error.strerror})" if error else ""
    return ConfigurationError(
        f"{section}.port: cannot listen on {host} port {port}{why}; "
        f"set another port (ANIMORA_{section.upper()}_PORT), or 0 for a free one"
    )

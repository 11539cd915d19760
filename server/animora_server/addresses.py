"""The addresses that an option's host and port stand for, and whether they can be listened on."""

import errno
import socket
from typing import Any, NamedTuple

from animora_server.errors import ConfigurationError


class Address(NamedTuple):
    """Where a socket may listen."""

    family: socket.AddressFamily
    address: Any


def addresses(section: str, host: str, port: int) -> list[Address]:
    """All addresses of a host.

    Raises:
        ConfigurationError: It has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"{section}.host: {host} is not an address of this machine") from error
    return [Address(family, address) for family, _, _, _, address in found]


def bind(address: Address, *options: int) -> socket.socket:
    """A socket that is bound to an address, with options of SOL_SOCKET on. Raises OSError."""
    bound = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address.address)
    except OSError:
        bound.close()
        raise
    return bound


def require_free(section: str, host: str, port: int) -> None:
    """Checks that nobody listens on a port, at none of the host's addresses.

    gRPC is content with one of several addresses; half of the clients would then reach somebody else.

    Raises:
        ConfigurationError: Somebody does, or the host has no address that this machine has.
    """
    why_not: OSError | None = None
    usable = 0
    for address in addresses(section, host, port):
        try:
            bind(address, socket.SO_REUSEADDR).close()
            usable += 1
        except OSError as error:
            why_not = error
            if error.errno != errno.EADDRNOTAVAIL:  # a name may have an address that this machine has not
                break
    if why_not is not None and (not usable or why_not.errno != errno.EADDRNOTAVAIL):
        raise cannot_listen(section, host, port, why_not)


def cannot_listen(section: str, host: str, port: int, error: OSError | None = None) -> ConfigurationError:
    """The error of a port that is taken, or not ours to take; gRPC does not say why."""
    why = f" ({error.strerror})" if error else ""
    return ConfigurationError(
        f"{section}.port: cannot listen on {host} port {port}{why}; "
        f"set another port (ANIMORA_{section.upper()}_PORT), or 0 for a free one"
    )

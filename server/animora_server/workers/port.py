"""The port that workers share: each listens on it, and the kernel gives a new connection to one of them."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from animora_server.errors import ConfigurationError
from animora_server.settings import GrpcSettings


@contextmanager
def reserved(settings: GrpcSettings) -> Iterator[int]:
    """Holds the port for processes of this user that share it (SO_REUSEPORT), and does not listen itself.

    Yields:
        The port, also where the settings leave the choice to the system.

    Raises:
        ConfigurationError: It is taken, or this system cannot share ports.
    """
    with _bound(settings) as shared:
        yield shared.getsockname()[1]


def _bound(settings: GrpcSettings) -> socket.socket:
    host, port = settings.host, settings.port
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError(
            "grpc.workers: this system cannot share a port between processes (SO_REUSEPORT); set 1"
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigurationError(f"grpc.host: {host} is not an address of this machine") from error
    why_not = ""
    for family, _, _, _, address in found:
        try:
            # With SO_REUSEPORT alone, a second server of this user would take connections from the first.
            _bind(family, address, socket.SO_REUSEADDR).close()
            return _bind(family, address, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        except OSError as error:
            why_not = str(error.strerror)
            if error.errno != errno.EADDRNOTAVAIL:  # a name may have an address that this machine has not
                break
    raise ConfigurationError(
        f"grpc.port: cannot listen on {host} port {port} ({why_not}); set another port, or 0 for a free one"
    )


def _bind(family: int, address: Any, *options: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound

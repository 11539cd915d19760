"""The port that workers share: each listens on it, and the kernel gives a new connection to one of them."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

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
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError(
            "grpc.workers: this system cannot share a port between processes (SO_REUSEPORT); set 1"
        )
    try:
        family, address = _resolve(settings.host, settings.port)
        # With SO_REUSEPORT alone, a second server of this user would take connections from the first.
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
        with socket.socket(family, socket.SOCK_STREAM) as shared:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                shared.setsockopt(socket.SOL_SOCKET, option, 1)
            shared.bind(address)
            yield shared.getsockname()[1]
    except socket.gaierror as error:
        raise ConfigurationError(f"grpc.host: {settings.host} is not an address of this machine") from error
    except OSError as error:
        raise ConfigurationError(
            f"grpc.port: cannot listen on {settings.host} port {settings.port} ({error.strerror}); "
            "set another port, or 0 for a free one"
        ) from error


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The first address of a host that this machine has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in found:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            try:
                trial.bind((address[0], 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
            else:
                return family, (str(address[0]), port)
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

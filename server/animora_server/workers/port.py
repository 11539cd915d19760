"""The port that workers share: each listens on it, and the kernel gives a new connection to one of them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from animora_server.addresses import bind_all, require_free
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
    with ExitStack() as held:
        shared = [held.enter_context(each) for each in _bound(settings)]
        yield shared[0].getsockname()[1]


def _bound(settings: GrpcSettings) -> list[socket.socket]:
    host, port = settings.host, settings.port
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError(
            "grpc.workers: this system cannot share a port between processes (SO_REUSEPORT); set 1"
        )
    # With SO_REUSEPORT alone, a second server of this user would take connections from the first.
    require_free("grpc", host, port)
    return bind_all("grpc", host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)

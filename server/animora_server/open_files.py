"""Fits the connections of the gRPC port into the process' limit of open files.

Without descriptors left, probes, PostgreSQL and Redis fail, and gRPC accepts nothing either.
"""

import os
import sys

import structlog

from animora_server.addresses import addresses
from animora_server.errors import ConfigurationError
from animora_server.observability.probes import MAX_CONNECTIONS as PROBE_CONNECTIONS
from animora_server.settings import GrpcSettings, Settings

log = structlog.get_logger(__name__)

ADMIN_CONNECTIONS = 16  # of the admin port
# Descriptors for PostgreSQL, the model store, files while they are read, and gRPC's own.
RESERVE = 64


def fit_connections(settings: Settings) -> GrpcSettings:
    """The section `grpc` with a `max_connections` that leaves descriptors for all else.

    Raises the process' soft limit of open files if its hard limit allows that.

    Raises:
        ConfigurationError: Not a single connection fits into the limit.
    """
    grpc, wanted = settings.grpc, settings.grpc.max_connections
    if sys.platform == "win32":
        return grpc
    # gRPC counts the connections of each address of the host by themselves.
    listeners = len(addresses("grpc", grpc.host, grpc.port))
    needed = len(os.listdir("/dev/fd")) + RESERVE + PROBE_CONNECTIONS + settings.cache.max_connections
    if settings.admin.enabled:
        needed += ADMIN_CONNECTIONS * len(addresses("admin", settings.admin.host, settings.admin.port))
    limit = raise_limit(needed + wanted * listeners)
    fitting = (limit - needed) // listeners
    if fitting >= wanted:
        return grpc
    if fitting < 1:
        raise ConfigurationError(
            f"the process may open {limit} files, which leaves none for connections: "
            f"raise the limit to {needed + listeners} or more (ulimit -n, LimitNOFILE)"
        )
    log.warning(
        "grpc.max_connections is lowered: the limit of open files allows no more",
        max_connections=wanted,
        lowered_to=fitting,
        open_files_limit=limit,
    )
    return grpc.model_copy(update={"max_connections": fitting})


def raise_limit(needed: int) -> int:
    """Raises the soft limit of open files to `needed`, or as far as the hard limit allows.

    Returns:
        The soft limit then.
    """
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return needed if soft == unlimited else soft
    raised = needed if hard == unlimited else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # a kernel's own limit, as on macOS
        return soft
    return raised

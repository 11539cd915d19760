"""Admits gRPC calls by the caller's bearer token or client certificate."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import grpc
import structlog

from animora_server.auth import AccessList, Role
from animora_server.errors import CallError, PermissionDenied, Unauthenticated
from animora_server.observability.metrics import AuthMetrics
from animora_server.service.peer_names import peer_names
from animora_server.watched_files import WatchedFiles

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

AUTHORIZATION = "authorization"
Metadata = Iterable[tuple[str, str | bytes]]


class Authorizer:
    """Decides whether a caller has a role.

    The metadata of a call arrives before its message, the client certificate is only known to its handler. So
    `admitting` decides at the look-up of the handler. A call that it does not admit gets a handler that calls
    `require` before it reads the message.

    Args:
        access: The tokens and certificates that are valid now.
        metrics: Counts refused callers.
        role: The role.
        port: The port that the callers use, for metrics and log.
    """

    def __init__(
        self,
        access: WatchedFiles[AccessList],
        metrics: AuthMetrics,
        role: Role = Role.RANK,
        port: Literal["grpc", "admin"] = "grpc",
    ) -> None:
        self._access = access
        self._metrics = metrics
        self._role = role
        self._port: Literal["grpc", "admin"] = port

    def for_admin_port(self) -> "Authorizer":
        """Checks callers of the admin port, by the same tokens and certificates."""
        return Authorizer(self._access, self._metrics, Role.ADMIN, "admin")

    @property
    def access(self) -> AccessList:
        """The tokens and certificates that are valid now; another object after each change."""
        return self._access.value

    def admitting(self, metadata: Metadata | None) -> AccessList | None:
        """The access list if the metadata has a valid token with the role, else None."""
        access, authorization = self.access, _authorization(metadata)
        if authorization is None:
            return None
        try:
            access.require(self._role, authorization)
        except CallError:
            return None
        return access

    def require(self, context: "Context", request_id: str) -> None:
        """Checks the caller by its token or certificate. Counts and logs a refusal.

        Args:
            context: The context of the call.
            request_id: The id of the call, for the log.

        Raises:
            Unauthenticated: The caller is not known.
            PermissionDenied: The caller lacks the role.
        """
        authorization = _authorization(context.invocation_metadata())
        names = peer_names(context) if authorization is None else ()
        try:
            self.access.require(self._role, authorization, names)
        except Unauthenticated:
            self._metrics.refused(self._port, "unauthenticated")
            log.info("gRPC caller is not known", peer=context.peer(), request_id=request_id, port=self._port)
            raise
        except PermissionDenied as error:
            self._metrics.refused(self._port, "permission_denied")
            log.info(
                "gRPC caller lacks a role",
                peer=context.peer(),
                request_id=request_id,
                port=self._port,
                caller=error.caller,
                role=error.role,
            )
            raise


def _authorization(metadata: Any) -> str | None:
    for key, value in metadata or ():
        if key == AUTHORIZATION:
            return str(value)
    return None

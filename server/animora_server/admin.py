"""The admin port: operators list and activate models there."""

from types import TracebackType
from typing import Self

import structlog

from animora_artifact import Artifact
from animora_server.inference.model_manager import ModelManager
from animora_server.inference.preflight import Preflight
from animora_server.models import ModelActivator, ModelWatcher, open_writable_models
from animora_server.observability.metrics import Metrics
from animora_server.open_files import ADMIN_CONNECTIONS
from animora_server.service import GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import CallHandler
from animora_server.service.model_service import MODEL_SERVICE_NAME, ModelService
from animora_server.settings import Settings

log = structlog.get_logger(__name__)

MAX_CALLS = 64  # in flight; most wait for an activation
DEFAULT_TIMEOUT = 60.0  # seconds of a call without a deadline: loading a version takes seconds


class AdminPort:
    """Listens in its `async with` block, and reports SERVING there, whether or not the server can rank.

    With workers each listens on the port, so a call is answered by one of them.

    Args:
        settings: All options.
        watcher: Follows the model store.
        model_manager: The loaded models.
        metrics: All metrics.
        authorizer: Checks callers of the gRPC port; None if callers need no credentials.

    Attributes:
        server: The gRPC server.
        activator: Activates versions.

    Raises:
        ConfigurationError: A key cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        watcher: ModelWatcher,
        model_manager: ModelManager,
        metrics: Metrics,
        authorizer: Authorizer | None,
    ) -> None:
        store = open_writable_models(settings.models, settings.admin.sign_key)
        preflight = Preflight()

        async def verify(artifact: Artifact) -> None:
            model_manager.check_widths(artifact.manifest)
            await preflight.check(artifact)

        self.activator = ModelActivator(
            store, watcher, lambda version: version in model_manager.loaded_versions, verify
        )
        service = ModelService(store, watcher, self.activator, model_manager)
        metrics.calls.add_service(MODEL_SERVICE_NAME, tuple(service.methods))
        own = settings.admin
        self.server = GrpcServer(
            settings.grpc.model_copy(
                update={
                    "host": own.host,
                    "port": own.port,
                    "insecure": own.insecure,
                    "max_connections": ADMIN_CONNECTIONS,
                }
            ),
            CallHandler(AdmissionController(MAX_CALLS, MAX_CALLS), metrics.calls, DEFAULT_TIMEOUT),
            service.methods,
            None if authorizer is None else authorizer.for_admin_port(),
            service=MODEL_SERVICE_NAME,
            section="admin",
        )

    async def __aenter__(self) -> Self:
        """Starts to listen. Raises ConfigurationError if the port is taken."""
        await self.server.__aenter__()
        await self.server.set_serving(True)
        log.info("admin port is listening", port=self.server.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends activations that are under way, then stops to listen."""
        await self.activator.aclose()
        await self.server.__aexit__(kind, error, trace)

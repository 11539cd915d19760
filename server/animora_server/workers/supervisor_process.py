"""The supervisor process: reserves the port, supervises the workers, serves metrics and probes."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from animora_server.addresses import reserve_port
from animora_server.auth import warn_about_open_ports, watch_access_list
from animora_server.errors import ConfigurationError
from animora_server.observability.aggregation import MetricsCollector, MetricsReport
from animora_server.observability.metrics import (
    AuthMetrics,
    BackgroundMetrics,
    DeviceProcessMetrics,
    WorkerMetrics,
    process_registry,
)
from animora_server.observability.probes import Probes, ScrapeAuthorizer
from animora_server.program import stop_signal
from animora_server.settings import Settings
from animora_server.shared_device.socket_path import is_shared, socket_path
from animora_server.tls import load_identity
from animora_server.workers import cpu_affinity
from animora_server.workers.ipc_messages import DEVICE
from animora_server.workers.supervisor import RestartPolicy, Supervisor
from animora_server.workers.worker import Worker

log = structlog.get_logger(__name__)

DEFAULT_POLICY = RestartPolicy()
SHUTDOWN_MARGIN = 1.0  # seconds for a worker's shutdown after its drain


async def supervise(settings: Settings, workers: int, policy: RestartPolicy = DEFAULT_POLICY) -> int:
    """Serves with a number of workers until a signal ends it, then drains them. Returns the exit status.

    Raises:
        ConfigurationError: The port cannot be shared, or an option cannot be satisfied.
    """
    if settings.grpc.pin_workers and not cpu_affinity.can_pin():
        raise ConfigurationError("grpc.pin_workers: this system cannot pin processes to cores; set false")
    load_identity(settings.grpc)  # fail here rather than in each worker, after its start
    access = watch_access_list(settings.auth)
    warn_about_open_ports(settings)
    own = process_registry()
    stopping = stop_signal()
    async with AsyncExitStack() as stack:
        port = stack.enter_context(reserve_port("grpc", settings.grpc.host, settings.grpc.port))
        admin_port = None
        if settings.admin.enabled:
            admin_port = stack.enter_context(reserve_port("admin", settings.admin.host, settings.admin.port))
        worker_settings = _worker_settings(settings, workers, port, admin_port)
        device_socket = stack.enter_context(socket_path()) if is_shared(settings.scorer) else None

        async def start(number: int) -> Worker:
            return await Worker.start(str(number), worker_settings, device_socket)

        drain_within = settings.grpc.drain_delay + settings.grpc.drain_grace + SHUTDOWN_MARGIN
        supervisor = Supervisor(workers, start, drain_within, WorkerMetrics(own), policy, stopping)
        device: Supervisor | None = None
        if device_socket is not None:

            async def start_device(_: int) -> Worker:
                return await Worker.start(DEVICE, worker_settings, device_socket)

            device = Supervisor(
                1, start_device, SHUTDOWN_MARGIN, DeviceProcessMetrics(own), policy, asyncio.Event()
            )
        supervisors = [supervisor] if device is None else [supervisor, device]
        loops = [each.loop for each in supervisors]
        scrapes = None
        if access is not None:
            await stack.enter_async_context(access)
            loops.append(access.loop)
            supervisor.watch(access.loop)
            scrapes = ScrapeAuthorizer(access, AuthMetrics(own))
        BackgroundMetrics(own).watch(*loops)

        async def reports() -> Sequence[MetricsReport]:
            metrics = await asyncio.gather(*(each.reports() for each in supervisors))
            return [report for one in metrics for report in one]

        page = CollectorRegistry()
        page.register(MetricsCollector(own, reports, policy.scrape_timeout))
        async with Probes(settings.http, page, supervisor.dead, supervisor.unready, scrapes) as probes:
            log.info(
                "starting workers",
                workers=workers,
                grpc_port=port,
                http_port=probes.port,
                shared_device=device is not None,
            )
            if device is None:
                _warn_about_threads(workers * settings.scorer.threads)
                return await supervisor.run()
            return await _run_with_device(supervisor, device)


async def _run_with_device(workers: Supervisor, device: Supervisor) -> int:
    """Runs the workers and the shared device's process, which is stopped last.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: An option is invalid.
    """

    async def run_device() -> int:
        try:
            return await device.run()
        finally:
            workers.stop()

    async def run_workers() -> int:
        try:
            return await workers.run()
        finally:
            device.stop()

    statuses = await asyncio.gather(run_device(), run_workers(), return_exceptions=True)
    for status in statuses:
        if isinstance(status, BaseException):
            raise status
    return max(status for status in statuses if isinstance(status, int))


def _worker_settings(settings: Settings, workers: int, port: int, admin_port: int | None) -> Settings:
    """The settings of all workers: with the reserved ports, and a key for page tokens if none is set."""
    timeline = settings.timeline
    if not timeline.token_key.get_secret_value():
        log.warning("timeline.token_key is not set: page tokens are valid for these workers only")
        timeline = timeline.model_copy(update={"token_key": SecretStr(secrets.token_hex())})
    grpc = settings.grpc.model_copy(update={"port": port, "workers": workers})
    admin = settings.admin if admin_port is None else settings.admin.model_copy(update={"port": admin_port})
    return settings.model_copy(update={"grpc": grpc, "admin": admin, "timeline": timeline})


def _warn_about_threads(threads: int) -> None:
    cores = len(cpu_affinity.usable_cores())
    if threads > cores:
        log.warning("more scoring threads than cores", threads=threads, cores=cores)

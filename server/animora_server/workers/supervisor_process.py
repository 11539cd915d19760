"""The process in front of the workers: it holds their port, keeps them, and shows how they are."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from animora_server.errors import ConfigurationError
from animora_server.observability.aggregation import Report
from animora_server.observability.metrics import (
    BackgroundMetrics,
    DeviceProcessMetrics,
    WorkerMetrics,
    process_registry,
)
from animora_server.observability.metrics_collector import MetricsCollector
from animora_server.observability.probes import Probes
from animora_server.program import stop_signal
from animora_server.settings import Settings
from animora_server.shared_device.socket_path import is_shared, socket_path
from animora_server.tls import load_identity
from animora_server.workers import cores
from animora_server.workers.ipc_messages import DEVICE
from animora_server.workers.port import reserved
from animora_server.workers.restart_policy import RestartPolicy
from animora_server.workers.supervisor import Supervisor
from animora_server.workers.worker import Worker

log = structlog.get_logger(__name__)

PATIENCE = RestartPolicy()
LAST_SECOND = 1.0  # for what a worker does at its end after its calls have had their grace


async def supervise(settings: Settings, workers: int, patience: RestartPolicy = PATIENCE) -> int:
    """Serves with so many workers until a signal ends it, then drains them. Returns the exit status.

    Raises:
        ConfigurationError: The port cannot be shared, or what an option asks for cannot be had.
    """
    if settings.grpc.pin_workers and not cores.may_pin():
        raise ConfigurationError("grpc.pin_workers: this system keeps no process on a core; leave it off")
    load_identity(settings.grpc)  # a worker would tell only once it can answer
    own = process_registry()
    stopping = stop_signal()
    with ExitStack() as stack:
        port = stack.enter_context(reserved(settings.grpc))
        of_workers = _of_workers(settings, workers, port)
        device_socket = stack.enter_context(socket_path()) if is_shared(settings.scorer) else None

        async def start(number: int) -> Worker:
            return await Worker.start(str(number), of_workers, device_socket)

        drain_within = settings.grpc.drain_delay + settings.grpc.drain_grace + LAST_SECOND
        supervisor = Supervisor(workers, start, drain_within, WorkerMetrics(own), patience, stopping)
        device: Supervisor | None = None
        if device_socket is not None:

            async def start_device(_: int) -> Worker:
                return await Worker.start(DEVICE, of_workers, device_socket)

            device = Supervisor(
                1, start_device, LAST_SECOND, DeviceProcessMetrics(own), patience, asyncio.Event()
            )
        kept = [supervisor] if device is None else [supervisor, device]
        BackgroundMetrics(own).watch(*(each.loop for each in kept))

        async def reports() -> Sequence[Report]:
            found = await asyncio.gather(*(each.reports() for each in kept))
            return [report for of_one in found for report in of_one]

        page = CollectorRegistry()
        page.register(MetricsCollector(own, reports, patience.scrape_timeout))
        async with Probes(settings.http, page, live=supervisor.dead, ready=supervisor.unready) as probes:
            log.info(
                "starting workers",
                workers=workers,
                grpc_port=port,
                http_port=probes.port,
                shared_device=device is not None,
            )
            if device is None:
                _warn_of_too_many_threads(workers * settings.scorer.threads)
                return await supervisor.run()
            return await _run_with_device(supervisor, device)


async def _run_with_device(workers: Supervisor, device: Supervisor) -> int:
    """Keeps the workers and the process whose device they share, which is the last to leave.

    Returns:
        The process' exit status.

    Raises:
        ConfigurationError: An option is wrong.
    """

    async def keep_device() -> int:
        try:
            return await device.run()
        finally:
            workers.stop()

    async def keep_workers() -> int:
        try:
            return await workers.run()
        finally:
            device.stop()

    statuses = await asyncio.gather(keep_device(), keep_workers(), return_exceptions=True)
    for status in statuses:
        if isinstance(status, BaseException):
            raise status
    return max(status for status in statuses if isinstance(status, int))


def _of_workers(settings: Settings, workers: int, port: int) -> Settings:
    """The settings at hand with what the workers have in common: their port, and a key for page tokens."""
    timeline = settings.timeline
    if not timeline.token_key.get_secret_value():
        log.warning("timeline.token_key is not set: page tokens are good for these workers alone")
        timeline = timeline.model_copy(update={"token_key": SecretStr(secrets.token_hex())})
    grpc = settings.grpc.model_copy(update={"port": port, "workers": workers})
    return settings.model_copy(update={"grpc": grpc, "timeline": timeline})


def _warn_of_too_many_threads(threads: int) -> None:
    usable = len(cores.usable())
    if threads > usable:
        log.warning(
            "the workers have more scoring threads than there are cores", threads=threads, cores=usable
        )

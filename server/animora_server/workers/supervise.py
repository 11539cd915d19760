"""The process in front of the workers: it holds their port, keeps them, and shows how they are."""

import os
import secrets
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from pydantic import SecretStr

from animora_server.metrics import WorkerMetrics
from animora_server.probes import Probes
from animora_server.program import stop_signal
from animora_server.settings import Settings
from animora_server.workers.patience import Patience
from animora_server.workers.port import reserved
from animora_server.workers.supervisor import Supervisor
from animora_server.workers.totals import Totals
from animora_server.workers.worker import Worker

log = structlog.get_logger(__name__)

PATIENCE = Patience()
LAST_SECOND = 1.0  # for what a worker does at its end after its calls have had their grace


async def supervise(settings: Settings, workers: int, patience: Patience = PATIENCE) -> int:
    """Serves with so many workers until SIGTERM or SIGINT, then drains them. Returns the exit status.

    Raises:
        ConfigurationError: The port cannot be shared, or what an option asks for cannot be had.
    """
    own = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=own)
    with reserved(settings.grpc) as port:
        supervisor = Supervisor(
            workers,
            partial(Worker.start, settings=_of_workers(settings, workers, port)),
            settings.grpc.drain_delay + settings.grpc.drain_grace + LAST_SECOND,
            WorkerMetrics(own),
            patience,
            stop_signal(),
        )
        page = CollectorRegistry()
        page.register(Totals(own, supervisor.reports, patience.scrape_timeout))
        async with Probes(settings.http, page, live=supervisor.dead, ready=supervisor.unready) as probes:
            log.info("starting workers", workers=workers, grpc_port=port, http_port=probes.port)
            _warn_of_too_many_threads(workers * settings.scorer.threads)
            return await supervisor.run()


def _of_workers(settings: Settings, workers: int, port: int) -> Settings:
    """The settings at hand with what the workers have in common: their port, and a key for page tokens."""
    timeline = settings.timeline
    if not timeline.token_key.get_secret_value():
        log.warning("timeline.token_key is not set: page tokens are good for these workers alone")
        timeline = timeline.model_copy(update={"token_key": SecretStr(secrets.token_hex())})
    grpc = settings.grpc.model_copy(update={"port": port, "workers": workers})
    return settings.model_copy(update={"grpc": grpc, "timeline": timeline})


def _warn_of_too_many_threads(threads: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > cores:
        log.warning(
            "the workers have more scoring threads than there are cores", threads=threads, cores=cores
        )

"""Load, cancels, swaps and faults for some minutes, and a verdict of what was seen."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np

from animora_artifact import FolderStore
from animora_demo.embedded import EmbeddedPostgres, EmbeddedRedis
from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from tests.support.artifacts import active_store, tiny_artifact
from tests.support.feed import TRAINED_USERS, fill
from tests.support.ledger import Ledger
from tests.support.memory_growth import resident_bytes
from tests.support.processes import animora_environment, listening_port

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

VERSIONS = ("v1", "v2", "v3")
SAMPLE_INTERVAL = 1.0  # seconds
FROZEN_SECONDS = 1.0
PAUSE = 2.0  # seconds between two events
WARM_UP = 1 / 3  # of the samples, in which memory may grow


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at a time, and since the sample before.

    Attributes:
        seconds: Since the start.
        megabytes: Resident memory of the server.
        p50: Milliseconds of a call; nan without calls.
        p99: The same.
        outcomes: Calls so far, by outcome.
    """

    seconds: float
    megabytes: float
    p50: float
    p99: float
    outcomes: dict[str, int]


@dataclass
class Soaked:
    """What a soak has seen."""

    ledger: Ledger
    samples: list[Sample] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    cancelled: int = 0

    @property
    def growth(self) -> float:
        """How much memory grew after the warm-up, by a straight line through it: 0.01 is one per cent."""
        settled = self.samples[int(len(self.samples) * WARM_UP) :]
        if len(settled) < 3:
            return 0.0
        seconds = np.array([sample.seconds for sample in settled])
        memory = np.array([sample.megabytes for sample in settled])
        slope, start = np.polyfit(seconds - seconds[0], memory, 1)
        return float(slope * (seconds[-1] - seconds[0]) / start)

    def problems(self, max_growth: float) -> list[str]:
        """The verdict: what is wrong; empty if all is well."""
        found = self.ledger.problems()
        if self.growth > max_growth:
            found.append(f"memory grew by {self.growth:.1%}, at most {max_growth:.1%} is allowed")
        if not self.ledger.outcomes["OK"]:
            found.append("no call was answered by the model")
        return found


async def soak(directory: Path, minutes: float, program: Sequence[str]) -> Soaked:
    """Runs a server with its PostgreSQL and Redis, and disturbs it.

    Args:
        directory: An empty folder with a short path.
        minutes: How long.
        program: The command line of the server.
    """
    postgres, redis = EmbeddedPostgres(directory / "pg"), EmbeddedRedis(directory / "redis")
    async with postgres, redis:
        feed = await fill(postgres.url)
        store = active_store(directory / "models")
        networks = {"v1": tiny_artifact("v1", seed=1)[1]}
        for seed, version in enumerate(VERSIONS[1:], 2):
            artifact, networks[version] = tiny_artifact(version, seed=seed)
            store.publish(artifact)
        soaked = Soaked(Ledger(feed, networks))
        options = {
            "DATABASE_URL": postgres.url,
            "CACHE_URL": redis.url,
            "MODELS_STORE": str(directory / "models"),
            "MODELS_READY_REQUIRES_MODEL": "true",
            "MODELS_POLL_INTERVAL": "0.2",
            "MODELS_RESIDENT": str(len(VERSIONS)),
            "GRPC_PORT": "0",
            "HTTP_PORT": "0",
            "SCORER_DEVICE": "cpu",
        }
        async with _server(program, options) as (process, stub):
            await soaked.ledger.until_serving(stub)
            async with soaked.ledger.load(stub, workers=4):
                began = time.monotonic()
                tasks = [
                    asyncio.create_task(_sample(soaked, process.pid, began)),
                    asyncio.create_task(_cancel(soaked, stub)),
                    asyncio.create_task(_disturb(soaked, began, _events(postgres, redis, store))),
                ]
                done, _ = await asyncio.wait(tasks, timeout=60 * minutes, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for task in done:
                    task.result()  # none ends by itself, but by an error
                await redis.start()
                await postgres.start()
            assert process.returncode is None, "the server has ended"
    return soaked


@asynccontextmanager
async def _server(
    program: Sequence[str], options: dict[str, str]
) -> AsyncIterator[tuple[asyncio.subprocess.Process, "RankingServiceAsyncStub"]]:
    process = await asyncio.create_subprocess_exec(
        *program, env=animora_environment(**options), stderr=asyncio.subprocess.PIPE
    )
    try:
        port = await listening_port(process)
        assert process.stderr is not None
        log = asyncio.create_task(process.stderr.read())  # so that the pipe does not fill
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield process, RankingServiceStub(channel)
        process.terminate()
        await log
        await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()


def _events(
    postgres: EmbeddedPostgres, redis: EmbeddedRedis, store: FolderStore
) -> dict[str, Callable[[], Awaitable[None]]]:
    versions = [*VERSIONS[1:], VERSIONS[0]]

    async def swap() -> None:
        versions.append(versions.pop(0))
        await asyncio.to_thread(store.activate, versions[-1])

    async def kill_redis() -> None:
        await redis.kill()
        await asyncio.sleep(FROZEN_SECONDS)
        await redis.start()

    async def freeze_redis() -> None:
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            os.kill(redis.pid, signal.SIGCONT)

    async def restart_postgres() -> None:
        await postgres.stop()
        await postgres.start()

    return {
        "swap": swap,
        "Redis killed": kill_redis,
        "swap again": swap,
        "Redis frozen": freeze_redis,
        "PostgreSQL restarted": restart_postgres,
    }


async def _disturb(soaked: Soaked, began: float, events: dict[str, Callable[[], Awaitable[None]]]) -> None:
    """One event after another, without end."""
    while True:
        for name, event in events.items():
            await asyncio.sleep(PAUSE)
            soaked.events.append((time.monotonic() - began, name))
            await event()


async def _cancel(soaked: Soaked, stub: "RankingServiceAsyncStub") -> None:
    """Calls that are given up at any moment, without end."""
    chance = random.Random(17)
    posts = soaked.ledger.feed.post_ids
    while True:
        call = stub.Rank(pb.RankRequest(user_id=chance.choice(TRAINED_USERS), post_ids=posts), timeout=10)
        await asyncio.sleep(chance.random() * 0.01)
        call.cancel()
        soaked.cancelled += 1
        await asyncio.sleep(0.01)


async def _sample(soaked: Soaked, pid: int, began: float) -> None:
    """A sample each second, without end."""
    ledger, seen = soaked.ledger, 0
    while True:
        await asyncio.sleep(SAMPLE_INTERVAL)
        latest, seen = ledger.seconds[seen:], len(ledger.seconds)
        p50, p99 = 1000 * np.quantile(latest, (0.5, 0.99)) if latest else (np.nan, np.nan)
        soaked.samples.append(
            Sample(time.monotonic() - began, resident_bytes(pid) / 2**20, p50, p99, dict(ledger.outcomes))
        )

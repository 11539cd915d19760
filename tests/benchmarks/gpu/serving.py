"""The end-to-end part of `make bench-gpu`: a server on the device, saturated by load generators beside it.

Posts and model are synthetic, as those of `make bench-growth`; the network is the wide one. After the
measurement an equal load is profiled: the time that the event loop's thread computes, of kernels, of copies.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from animora_demo.embedded import EmbeddedError, EmbeddedPostgres
from tests.benchmarks.gpu.figures import CALLS, IN_COPIES, IN_KERNELS, IN_PYTHON, P50, P99, PAIRS
from tests.benchmarks.gpu.measuring import Options, report, say
from tests.benchmarks.gpu.profiled_server import FOLDER, RESULT, START
from tests.benchmarks.gpu.scoring import WIDE
from tests.benchmarks.growth import databases, version
from tests.benchmarks.growth.concurrency import RANKINGS
from tests.benchmarks.growth.server_load import load_server, traffic
from tests.benchmarks.load import Turn
from tests.benchmarks.processes import Server, animora_server
from tests.benchmarks.scraping import scrape

POSTS, CANDIDATES, CALLERS = 20_000, 1_000, 32
SMALL_POSTS, SMALL_CANDIDATES, SMALL_CALLERS = 300, 50, 2
WARM_UP, SECONDS = 3.0, 10.0
SMALL_SECONDS = 1.0
PROFILE_SECONDS = 4.0  # of the load that is profiled, which lasts longer than the profile
MAX_GENERATORS = 8  # processes of `animora-client bench`
PROFILE_TIMEOUT = 60.0  # seconds: the profiler's events are many
NAMES = {"loop": IN_PYTHON, "kernels": IN_KERNELS, "copies": IN_COPIES}


async def measure(server: Server, profile: Path, options: Options) -> None:
    """Reports the figures of a server that is SERVING."""
    small = options.small
    candidates = SMALL_CANDIDATES if small else CANDIDATES
    callers = SMALL_CALLERS if small else CALLERS
    requests = traffic(SMALL_POSTS if small else POSTS, candidates)
    generators = 1 if small else max(1, min(MAX_GENERATORS, (os.cpu_count() or 1) // 2))

    async def load(seconds: float) -> Sequence[Turn]:
        turns = (load_server(server, callers, seconds, *requests) for _ in range(generators))
        return await asyncio.gather(*turns)

    await load(SMALL_SECONDS if small else WARM_UP)
    turns = await load(SMALL_SECONDS if small else SECONDS)
    calls = sum(turn.throughput for turn in turns)
    report(CALLS, calls)
    report(PAIRS, calls * candidates)
    report(P50, sorted(turn.p50 for turn in turns)[len(turns) // 2])
    report(P99, max(turn.p99 for turn in turns))
    say(f"server: {generators} load generators, {callers} callers each, {candidates} candidates a call")
    before = (await scrape(server)).total(RANKINGS)
    loading = asyncio.create_task(load(PROFILE_SECONDS))
    while (await scrape(server)).total(RANKINGS) == before:  # noqa: ASYNC110  # a server does not notify
        await asyncio.sleep(0.1)
    (profile / START).touch()
    await loading
    async with asyncio.timeout(PROFILE_TIMEOUT):
        while not (profile / RESULT).exists():  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.1)
    for name, share in json.loads((profile / RESULT).read_text()).items():
        report(NAMES[name], share)


@asynccontextmanager
async def saturable_server(folder: Path, options: Options) -> AsyncIterator[Server]:
    """A server of the synthetic posts, with a database of its own in a folder.

    Raises:
        EmbeddedError: There is no PostgreSQL.
    """
    version.publish(folder / "models", WIDE)
    profile = folder / "profile"
    profile.mkdir()
    os.environ[FOLDER] = str(profile)
    async with EmbeddedPostgres(folder / "postgres") as postgres:
        settings = {
            "DATABASE_URL": await databases.served(postgres, SMALL_POSTS if options.small else POSTS),
            "MODELS_STORE": str(folder / "models"),
            "MODELS_TRUSTED": "true",
            "MODELS_READY_REQUIRES_MODEL": "true",
            "CATALOG_RECONCILE_INTERVAL": "3600",
            "SCORER_DEVICE": options.device.type,
            "SCORER_MAX_BATCH_ROWS": "65536",
            "SCORER_MAX_QUEUE_ROWS": "10000000",
        }
        async with animora_server(settings, module="tests.benchmarks.gpu.profiled_server") as server:
            yield server


async def main(options: Options) -> None:
    """Measures, or says that there is no PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        os.chmod(folder, 0o711)  # as root, PostgreSQL runs as another user
        try:
            async with saturable_server(folder, options) as server:
                await measure(server, folder / "profile", options)
        except EmbeddedError as error:
            say(f"server: skipped: {error}")


if __name__ == "__main__":
    asyncio.run(main(Options.parse()))

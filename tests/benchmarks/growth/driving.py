"""A server for a curve, and the loads on it, of which the model must answer every call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.benchmarks.growth.version import USERS
from tests.benchmarks.load import Turn, bench
from tests.benchmarks.processes import Server, animora_server

PATIENCE = ("--timeout", "10")  # seconds: the largest calls take one on a busy machine
LIMIT = 10  # posts of an answer
CANDIDATES = 200
BY_THE_MODEL = (
    0.99  # of the answers; a machine that is busy with other things may hold one up beyond its deadline
)
Point = dict[str, float]


@asynccontextmanager
async def serving(database_url: str, store: Path) -> AsyncIterator[Server]:
    """The real server on a core of its own; it reconciles at its start only."""
    options = {
        "DATABASE_URL": database_url,
        "MODELS_STORE": str(store),
        "MODELS_TRUSTED": "true",
        "MODELS_READY_REQUIRES_MODEL": "true",
        "CATALOG_RECONCILE_INTERVAL": "3600",
    }
    async with animora_server(options, pinned=True) as server:
        yield server


def traffic(posts: int, candidates: int = CANDIDATES, distinct: int = 500) -> tuple[str, ...]:
    """Options of `animora-client bench`: random candidates of the first so many posts, for random users."""
    return (
        *("--users", f"1-{USERS}", "--posts", f"1-{posts}", "--candidates", str(candidates)),
        *("--limit", str(LIMIT), "--distinct", str(distinct)),
    )


async def asked(server: Server, callers: int, seconds: float, *options: str) -> Turn:
    """A turn of so many callers; `animora-client bench` checks every reply.

    Raises:
        RuntimeError: A call failed, a reply was wrong, or too few are by NEUCF.
    """
    measured, turn = await bench(server, seconds, "--concurrency", str(callers), *PATIENCE, *options)
    rankers = measured["rankers"]
    if measured["failed"] or rankers.get("neucf", 0) < BY_THE_MODEL * sum(rankers.values()):
        raise RuntimeError(f"not all answers are right and by NEUCF: {measured['failures']}, {rankers}")
    return turn

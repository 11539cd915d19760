"""The server of a curve, and loads on it whose calls the model must answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.benchmarks.growth.version import USERS
from tests.benchmarks.load import Turn, bench
from tests.benchmarks.processes import Server, animora_server

TIMEOUT_OPTION = ("--timeout", "10")  # seconds: the largest calls take one on a busy machine
LIMIT = 10  # posts of a response
CANDIDATES = 200
MIN_NEUCF_SHARE = 0.99  # of the responses; on a busy machine a few may miss their deadline
Point = dict[str, float]


@asynccontextmanager
async def serving(database_url: str, store: Path) -> AsyncIterator[Server]:
    """The real server, pinned to its own core; it reconciles at its start only."""
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
    """Options of `animora-client bench`: random candidates of the first `posts` posts, for random users."""
    return (
        *("--users", f"1-{USERS}", "--posts", f"1-{posts}", "--candidates", str(candidates)),
        *("--limit", str(LIMIT), "--distinct", str(distinct)),
    )


async def load_server(server: Server, callers: int, seconds: float, *options: str) -> Turn:
    """A turn with `callers` callers; `animora-client bench` checks every reply.

    Raises:
        RuntimeError: A call failed, a reply was wrong, or too few are by NEUCF.
    """
    measured, turn = await bench(server, seconds, "--concurrency", str(callers), *TIMEOUT_OPTION, *options)
    rankers = measured["rankers"]
    if measured["failed"] or rankers.get("neucf", 0) < MIN_NEUCF_SHARE * sum(rankers.values()):
        raise RuntimeError(f"not all responses are right and by NEUCF: {measured['failures']}, {rankers}")
    return turn

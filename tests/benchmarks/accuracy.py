"""`make bench-accuracy DATA=DIR`: the whole path on real likes, judged through the running server.

Imports a folder in the NCF format, fits, publishes, serves, and asks the server to rank each user's
held-out item among its negatives. The same numbers must come from `animora-train evaluate`, which does
not go through the server. The last line is `hr@10=0.xxxx ndcg@10=0.xxxx`, measured through the server.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from animora_client import AsyncRankingClient, CachePolicy, Ranking, RankRequest
from animora_client import Ranker as RankerName
from animora_server.embedded import EmbeddedPostgres, apply_schema
from animora_training.feeds.ncf_format import TestPairs, find_files, read_test_pairs
from animora_training.judging.metrics import hit_ratio, ndcg
from tests.benchmarks.processes import animora_server

BATCH = 100  # users of one call
TOP = 10
# The default recipe but for the width of the GMF branch, which is better on a hold-out from train too.
RECIPE = ("factors=32",)


async def train(*arguments: str) -> str:
    """Runs animora-train, shows its progress, and returns what it printed.

    Raises:
        RuntimeError: It failed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "animora_training", *arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"animora-train {' '.join(arguments[:2])} failed")
    return output.decode()


async def ranks_through_server(target: str, pairs: TestPairs) -> np.ndarray:
    """Ranks int64 (m) of the held-out items, 0 for the best, in the server's order.

    Raises:
        RuntimeError: A user was not ranked by the model, or the held-out item is missing.
    """
    ranks = []
    async with AsyncRankingClient(target) as client:
        for start in track(range(0, len(pairs.users), BATCH), "ranking through the server"):
            requests = [
                RankRequest(int(user), items[present].tolist(), cache_policy=CachePolicy.BYPASS)
                for user, items, present in zip(
                    pairs.users[start : start + BATCH],
                    pairs.candidates[start : start + BATCH],
                    pairs.present[start : start + BATCH],
                    strict=True,
                )
            ]
            answers = await client.batch_rank(requests, timeout=30)
            for request, answer in zip(requests, answers, strict=True):
                if not isinstance(answer, Ranking) or answer.ranker != RankerName.NEUCF:
                    raise RuntimeError(f"user {request.user_id} was not ranked by the model: {answer}")
                ranks.append(answer.post_ids.index(next(iter(request.post_ids))))
    return np.array(ranks, np.int64)


async def run(data: Path, recipe: Sequence[str], out: Console) -> None:
    """Goes the whole path.

    Raises:
        RuntimeError: A step failed, or the server's numbers are not the trainer's.
    """
    files = await asyncio.to_thread(find_files, data)
    if files.negatives is None:
        raise RuntimeError(f"{data} has no *.test.negative: there is nothing to rank")
    pairs = await asyncio.to_thread(read_test_pairs, files.negatives)
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "models")
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            await apply_schema(postgres.url)
            await train("import", "ncf", str(data), "--database-url", postgres.url)
            started = time.monotonic()
            choices = [word for choice in recipe for word in ("--set", choice)]
            arguments = ("--database-url", postgres.url, "--store", store)
            out.print(await train("fit", *arguments, "--activate", *choices))
            out.print(f"fitted in {time.monotonic() - started:.0f} s with {', '.join(recipe)}")
            evaluated = (await train("evaluate", "--ncf", str(data), *arguments)).strip().splitlines()[-1]
            options = {
                "DATABASE_URL": postgres.url,
                "MODELS_STORE": store,
                "MODELS_READY_REQUIRES_MODEL": "true",
            }
            async with animora_server(options) as server:
                async with AsyncRankingClient(server.target) as client:
                    await client.rank(0, [0], timeout=120)
                ranks = await ranks_through_server(server.target, pairs)
    served = f"hr@{TOP}={hit_ratio(ranks, TOP):.4f} ndcg@{TOP}={ndcg(ranks, TOP):.4f}"
    out.print(f"animora-train evaluate: {evaluated}")
    out.print(f"through the server, {len(ranks):,} users:")
    out.print(served)
    if served != evaluated:
        raise RuntimeError("the server's numbers are not the trainer's")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder in the NCF format")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"instead of {RECIPE}")
    options = parser.parse_args()
    asyncio.run(run(options.data, options.set or RECIPE, Console(highlight=False, soft_wrap=True)))

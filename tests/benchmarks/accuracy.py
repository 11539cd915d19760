"""`make bench-accuracy DATA=DIR SEEDS=3`: the frozen recipe on real likes, judged through the running server.

Imports a folder in the NCF format; then for each seed fits from scratch, publishes, serves, and asks the
server to rank each user's held-out item among its negatives. The same numbers must come from
`animora-train evaluate`, which does not go through the server. Baselines are tuned and judged once, by
`animora-train compare`. The last line is `hr@10=0.xxxx ndcg@10=0.xxxx`, means over the seeds of what the
server answered.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from animora_artifact import Artifact, open_store
from animora_client import AsyncRankingClient
from animora_server.embedded import EmbeddedPostgres, apply_schema
from animora_training.feeds.ncf_format import TestPairs, find_files, read_test_pairs
from animora_training.judging.evaluation import Quality
from tests.benchmarks.accuracy_report import Baselines, SeedResult, line, report
from tests.benchmarks.beginnings import Beginnings
from tests.benchmarks.processes import animora_server
from tests.benchmarks.served import ServedRanks, ranks_through_server

SEEDS = 3
# What `animora-train fit` is told to --set: the frozen recipe, for data sets of any size.
RECIPE = ("factors=256", "learning_rate=0.001", "history_drop=0.3")
# Options of `animora-train compare`: tuning may take so long for each of its recipes.
COMPARISON = ("--tuning-seconds", "240")


@dataclass(frozen=True, slots=True)
class Bench:
    """What every step needs.

    Attributes:
        data: A folder in the NCF format.
        pairs: Its held-out pairs.
        database_url: Where its training pairs have been imported.
        folder: For model stores and other files.
        out: Where to print.
    """

    data: Path
    pairs: TestPairs
    database_url: str
    folder: Path
    out: Console

    def store(self, seed: int) -> str:
        """Each seed has its own, so that none is refused for being worse than another."""
        return str(self.folder / f"models-{seed}")


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


async def run_seed(bench: Bench, seed: int, recipe: Sequence[str], beginnings: Beginnings) -> SeedResult:
    """Fits, evaluates and serves.

    Raises:
        RuntimeError: A step failed, or the server's numbers are not the trainer's.
    """
    store, began = bench.store(seed), time.monotonic()
    where = ("--database-url", bench.database_url, "--store", store)
    bench.out.print(await train("fit", *where, "--activate", "--seed", str(seed), *recipe))
    seconds = time.monotonic() - began
    evaluated = (await train("evaluate", "--ncf", str(bench.data), *where)).strip().splitlines()[-1]
    served = await serve(bench, store)
    personal = line(Quality.of(served.ranks[served.personal]))
    if personal != evaluated:
        raise RuntimeError(f"the server's {personal} is not the trainer's {evaluated}")
    beginning = await asyncio.to_thread(beginnings.ranks, active(store), served)
    result = SeedResult(seed, served.ranks, beginning, seconds)
    bench.out.print(f"seed {seed}: {line(result.quality)}, fitted in {seconds:.0f} s")
    if strangers := int((~served.personal).sum()):
        bench.out.print(f"{strangers:,} users whom the model does not know were ranked for by the heuristic")
    return result


async def serve(bench: Bench, store: str) -> ServedRanks:
    """Has a server of its own rank the held-out pairs with a store's active model."""
    options = {
        "DATABASE_URL": bench.database_url,
        "MODELS_STORE": store,
        "MODELS_TRUSTED": "true",
        "MODELS_READY_REQUIRES_MODEL": "true",
    }
    async with animora_server(options) as server, AsyncRankingClient(server.target) as client:
        return await ranks_through_server(client, bench.pairs)


def active(store: str) -> Artifact:
    """A store's active version.

    Raises:
        RuntimeError: There is none.
    """
    models = open_store(store)
    version = models.active()
    if version is None:
        raise RuntimeError(f"{store} has no active version")
    return models.read(version)


async def compare(bench: Bench, seed: int, options: Sequence[str]) -> Baselines:
    """Tunes and judges the baselines.

    Raises:
        RuntimeError: It failed, or ranked other pairs.
    """
    file, began = bench.folder / "comparison.json", time.monotonic()
    where = ("--database-url", bench.database_url, "--store", bench.store(seed))
    bench.out.print(await train("compare", "--ncf", str(bench.data), "--json", str(file), *where, *options))
    bench.out.print(f"compared in {time.monotonic() - began:.0f} s")
    baselines = Baselines.of(json.loads(file.read_text()))
    if len(baselines.best_rows) != len(bench.pairs.users):
        raise RuntimeError("animora-train compare did not rank all held-out pairs")
    return baselines


async def run(data: Path, seeds: int, recipe: Sequence[str], comparison: Sequence[str], out: Console) -> None:
    """Goes the whole path.

    Raises:
        InvalidInput: The folder cannot be read.
        RuntimeError: A step failed.
    """
    began = time.monotonic()
    files = await asyncio.to_thread(find_files, data)
    if files.negatives is None:
        raise RuntimeError(f"{data} has no *.test.negative: there is nothing to rank")
    pairs = await asyncio.to_thread(read_test_pairs, files.negatives)
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            await apply_schema(postgres.url)
            await train("import", "ncf", str(data), "--database-url", postgres.url)
            bench = Bench(data, pairs, postgres.url, Path(folder), out)
            beginnings = await asyncio.to_thread(Beginnings.of, data)
            results = [await run_seed(bench, seed, recipe, beginnings) for seed in range(seeds)]
            baselines = await compare(bench, 0, comparison)
    out.print(f"{' '.join(recipe)}; {(time.monotonic() - began) / 60:.0f} minutes in all")
    report(results, baselines, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder in the NCF format")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many fits")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"instead of {' '.join(RECIPE)}")
    options = parser.parse_args()
    chosen = [word for choice in options.set or RECIPE for word in ("--set", choice)]
    console = Console(highlight=False, soft_wrap=True)
    asyncio.run(run(options.data, options.seeds, chosen, COMPARISON, console))

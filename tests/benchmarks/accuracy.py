"""`make bench-accuracy DATA=DIR SEEDS=3`: the frozen recipe on real likes, through the running server.

Imports a folder in the NCF format; then for each seed fits from scratch, publishes, serves, and has the
server rank each user's held-out item among its negatives (99 are drawn for a folder without any). The trainer
scores the same pairs without the server: the probabilities must agree within the version's tolerance, which
is checked at the end; ranks that differ are only counted, since scores within rounding may swap ranks.
Baselines are tuned and evaluated once, by `animora-train compare`. The last line is `hr@10=0.xxxx
ndcg@10=0.xxxx`, means over the seeds of the server's rankings.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from animora_artifact import Artifact, open_store
from animora_client import AsyncRankingClient
from animora_demo.embedded import EmbeddedPostgres, apply_schema
from animora_training.errors import TrainingError
from tests.benchmarks.accuracy_report import Baselines, SeedResult, line, report
from tests.benchmarks.ncf_negatives import with_negatives
from tests.benchmarks.ncf_task import NcfTask
from tests.benchmarks.processes import animora_server
from tests.benchmarks.served import Agreement, ranks_through_server

SEEDS = 3
# Values of --set for `animora-train fit`: the frozen recipe, for data sets of any size.
RECIPE = ("factors=256", "learning_rate=0.001", "history_drop=0.3")
# Options of `animora-train compare`: the tuning budget of each recipe.
COMPARISON = ("--tuning-seconds", "240")


@dataclass(frozen=True, slots=True)
class Bench:
    """Inputs of every step.

    Attributes:
        data: A folder in the NCF format.
        task: The same in memory, with the held-out pairs that can be ranked.
        database_url: Database that has its training pairs.
        folder: Folder for model stores and other files.
        out: Prints progress and results.
    """

    data: Path
    task: NcfTask
    database_url: str
    folder: Path
    out: Console

    def store(self, seed: int) -> str:
        """The model store of a seed; separate stores, so that the gate compares no seed with another."""
        return str(self.folder / f"models-{seed}")


async def train(*arguments: str) -> str:
    """Runs animora-train, shows its progress, and returns its output.

    Raises:
        RuntimeError: The command failed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "animora_training", *arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"animora-train {' '.join(arguments[:2])} failed")
    return output.decode()


async def fit(bench: Bench, seed: int, recipe: Sequence[str]) -> float:
    """Fits and activates a version in the seed's store; returns the seconds that it took.

    Raises:
        RuntimeError: The command failed.
    """
    began = time.monotonic()
    where = ("--database-url", bench.database_url, "--store", bench.store(seed))
    # --force: it is measured even if the gate would refuse it.
    bench.out.print(await train("fit", *where, "--activate", "--force", "--seed", str(seed), *recipe))
    return time.monotonic() - began


async def run_seed(bench: Bench, seed: int, recipe: Sequence[str]) -> SeedResult:
    """Fits, evaluates, serves, and prints the results.

    Raises:
        RuntimeError: A step failed.
    """
    store, seconds = bench.store(seed), await fit(bench, seed, recipe)
    where = ("--database-url", bench.database_url, "--store", store)
    bench.out.print(await train("evaluate", "--ncf", str(bench.data), *where))
    version, task = active(store), bench.task
    async with serving(bench, store) as client:
        served = await ranks_through_server(client, task.dataset, task.held_out)
    agreement = await asyncio.to_thread(Agreement.of, version, task.dataset, task.held_out, served)
    initialization = await asyncio.to_thread(task.initial_ranks, version, served)
    tolerance = version.manifest.tolerances.float32
    result = SeedResult(seed, served.ranks, initialization, seconds, agreement.problem(tolerance))
    bench.out.print(f"seed {seed}: {line(result.quality)}, fitted in {seconds:.0f} s")
    bench.out.print(agreement.text())
    if unknown := int((~served.personal).sum()):
        bench.out.print(f"{unknown:,} users whom the model does not know were ranked for by the heuristic")
    return result


@asynccontextmanager
async def serving(bench: Bench, store: str) -> AsyncIterator[AsyncRankingClient]:
    """A client of a server that runs on a store."""
    options = {
        "DATABASE_URL": bench.database_url,
        "MODELS_STORE": store,
        "MODELS_TRUSTED": "true",
        "MODELS_READY_REQUIRES_MODEL": "true",
    }
    async with animora_server(options) as server, AsyncRankingClient(server.target) as client:
        yield client


def active(store: str) -> Artifact:
    """A store's active version.

    Raises:
        RuntimeError: The store has none.
    """
    models = open_store(store)
    version = models.active()
    if version is None:
        raise RuntimeError(f"{store} has no active version")
    return models.read(version)


async def compare(bench: Bench, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Tunes and evaluates the baselines; returns the JSON of `animora-train compare`.

    Raises:
        RuntimeError: The command failed, or ranked other pairs.
    """
    file, began = bench.folder / "comparison.json", time.monotonic()
    where = ("--database-url", bench.database_url, "--store", bench.store(seed))
    bench.out.print(await train("compare", "--ncf", str(bench.data), "--json", str(file), *where, *options))
    bench.out.print(f"compared in {time.monotonic() - began:.0f} s")
    comparison: dict[str, Any] = json.loads(file.read_text())
    ranked, expected = comparison["users"], len(bench.task.held_out.users)
    if ranked != expected:
        raise RuntimeError(f"animora-train compare ranked {ranked:,} of the {expected:,} held-out pairs")
    return comparison


async def run(
    data: Path, seeds: int, recipe: Sequence[str], comparison: Sequence[str], out: Console
) -> list[str]:
    """Runs all steps, and prints all measurements even if a later step fails.

    Returns:
        Problems, also printed.

    Raises:
        InvalidInput: The folder cannot be read.
        RuntimeError: Nothing can be ranked, or no fit succeeded.
    """
    began = time.monotonic()
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            complete = await asyncio.to_thread(with_negatives, data, Path(folder), out)
            await apply_schema(postgres.url)
            await train("import", "ncf", str(complete), "--database-url", postgres.url)
            task = await asyncio.to_thread(NcfTask.of, complete)
            pairs, among = len(task.held_out.users), task.held_out.mean_candidates
            out.print(f"{pairs:,} pairs, each among {among:.1f} items on average")
            if task.left_out:
                out.print(f"left out {task.left_out:,} pairs without a negative")
            bench = Bench(complete, task, postgres.url, Path(folder), out)
            results = [await run_seed(bench, seed, recipe) for seed in range(seeds)]
            problems += [result.problem for result in results if result.problem]
            try:
                baselines = Baselines.of(await compare(bench, 0, comparison))
            except RuntimeError as error:
                problems.append(f"no baselines: {error}")
                baselines = None
    out.print(f"{' '.join(recipe)}; {(time.monotonic() - began) / 60:.0f} minutes in all")
    for problem in problems:
        out.print(f"problem: {problem}")
    report(results, baselines, out)
    return problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder in the NCF format")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of fits")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"instead of {' '.join(RECIPE)}")
    options = parser.parse_args()
    chosen = [word for choice in options.set or RECIPE for word in ("--set", choice)]
    console = Console(highlight=False, soft_wrap=True)
    try:
        found = asyncio.run(run(options.data, options.seeds, chosen, COMPARISON, console))
    except (RuntimeError, TrainingError) as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if found else 0)

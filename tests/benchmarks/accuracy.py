"""`make bench-accuracy DATA=DIR SEEDS=3`: the frozen recipe on real likes, judged through the running server.

Imports a folder in the NCF format; then for each seed fits from scratch, publishes, serves, and asks the
server to rank each user's held-out item among its negatives (of a folder that has none, 99 are drawn). The
trainer scores the same pairs without the server: the probabilities must agree within the version's tolerance,
which is looked at when all has been printed; of ranks that differ, it is said how many do, for scores within
rounding of one another may change places. Baselines are tuned and judged once, by `animora-train compare`.
The last line is `hr@10=0.xxxx ndcg@10=0.xxxx`, means over the seeds of what the server answered.
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
from animora_demo.embedded import EmbeddedPostgres, apply_schema
from animora_training.errors import TrainingError
from tests.benchmarks.accuracy_report import Baselines, SeedResult, line, report
from tests.benchmarks.beginnings import Beginnings
from tests.benchmarks.ncf_negatives import with_negatives
from tests.benchmarks.processes import animora_server
from tests.benchmarks.served import Agreement, ServedRanks, ranks_through_server

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
        beginnings: The same in memory, with the held-out pairs that can be ranked.
        database_url: Where its training pairs have been imported.
        folder: For model stores and other files.
        out: Where to print.
    """

    data: Path
    beginnings: Beginnings
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


async def run_seed(bench: Bench, seed: int, recipe: Sequence[str]) -> SeedResult:
    """Fits, evaluates, serves, and prints what came out.

    Raises:
        RuntimeError: A step failed.
    """
    store, began = bench.store(seed), time.monotonic()
    where = ("--database-url", bench.database_url, "--store", store)
    # Whatever it is worth: it is to be measured.
    bench.out.print(await train("fit", *where, "--activate", "--force", "--seed", str(seed), *recipe))
    seconds = time.monotonic() - began
    bench.out.print(await train("evaluate", "--ncf", str(bench.data), *where))
    served, version = await serve(bench, store), active(store)
    beginnings = bench.beginnings
    agreement = await asyncio.to_thread(
        Agreement.of, version, beginnings.dataset, beginnings.held_out, served
    )
    beginning = await asyncio.to_thread(beginnings.ranks, version, served)
    tolerance = version.manifest.tolerances.float32
    result = SeedResult(seed, served.ranks, beginning, seconds, agreement.problem(tolerance))
    bench.out.print(f"seed {seed}: {line(result.quality)}, fitted in {seconds:.0f} s")
    bench.out.print(agreement.text())
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
        return await ranks_through_server(client, bench.beginnings.dataset, bench.beginnings.held_out)


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
    ranked, asked = len(baselines.best_rows), len(bench.beginnings.held_out.users)
    if ranked != asked:
        raise RuntimeError(f"animora-train compare ranked {ranked:,} of the {asked:,} held-out pairs")
    return baselines


async def run(
    data: Path, seeds: int, recipe: Sequence[str], comparison: Sequence[str], out: Console
) -> list[str]:
    """Goes the whole path, and prints all that was measured, whatever fails later.

    Returns:
        What was not as it should be, also printed.

    Raises:
        InvalidInput: The folder cannot be read.
        RuntimeError: Nothing can be ranked, or nothing fitted.
    """
    began = time.monotonic()
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            complete = await asyncio.to_thread(with_negatives, data, Path(folder), out)
            await apply_schema(postgres.url)
            await train("import", "ncf", str(complete), "--database-url", postgres.url)
            beginnings = await asyncio.to_thread(Beginnings.of, complete)
            pairs, among = len(beginnings.held_out.users), beginnings.held_out.mean_candidates
            out.print(f"{pairs:,} pairs, each among {among:.1f} items on average")
            if beginnings.left_out:
                out.print(f"left out {beginnings.left_out:,} pairs that have nothing to be ranked among")
            bench = Bench(complete, beginnings, postgres.url, Path(folder), out)
            results = [await run_seed(bench, seed, recipe) for seed in range(seeds)]
            problems += [result.problem for result in results if result.problem]
            try:
                baselines = await compare(bench, 0, comparison)
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
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many fits")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"instead of {' '.join(RECIPE)}")
    options = parser.parse_args()
    chosen = [word for choice in options.set or RECIPE for word in ("--set", choice)]
    console = Console(highlight=False, soft_wrap=True)
    try:
        found = asyncio.run(run(options.data, options.seeds, chosen, COMPARISON, console))
    except (RuntimeError, TrainingError) as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if found else 0)

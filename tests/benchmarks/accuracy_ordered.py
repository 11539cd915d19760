"""`make bench-accuracy-ordered DATA=DIR SEEDS=3`: each user's latest item, found through the running server.

Imports a folder in the NCF format whose test pairs are each user's latest; then for each seed fits from
scratch, publishes, serves, and has the server rank the held-out item among its negatives, and score all items
less the user's training items. Beside it are the baselines of `animora-train compare --protocol latest`, and
SASRec, which `make bench-sasrec` has trained. With --shuffled the training pairs of each user swap their
times at random before the import: what order is worth must vanish. The last line is `hr@10=0.xxxx
ndcg@10=0.xxxx full_ndcg@10=0.xxxx`, means over the seeds of the server's rankings.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from animora_demo.embedded import EmbeddedPostgres, apply_schema
from animora_training.errors import TrainingError
from animora_training.evaluation.comparison import NEUCF
from animora_training.evaluation.evaluation_split import ncf_split
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.measures import full_measures, measures_of_ranks
from animora_training.evaluation.network_ranking import TOP
from tests.benchmarks.accuracy import COMPARISON, RECIPE, SEEDS, Bench, compare, fit, serving, train
from tests.benchmarks.ncf_negatives import with_negatives
from tests.benchmarks.ncf_shuffled import with_shuffled_times
from tests.benchmarks.ncf_task import NcfTask
from tests.benchmarks.ordered_report import OrderedQuality, OrderedRows, report
from tests.benchmarks.sasrec import NAME as SASREC
from tests.benchmarks.sasrec import recorded
from tests.benchmarks.served import ranks_through_server
from tests.benchmarks.served_catalog import catalog_through_server


async def run_seed(bench: Bench, seed: int, recipe: Sequence[str]) -> OrderedRows:
    """Fits, serves, ranks, and prints the result.

    Raises:
        RuntimeError: A step failed.
    """
    seconds, task = await fit(bench, seed, recipe), bench.task
    split = ncf_split("latest", task.dataset, task.held_out)
    async with serving(bench, bench.store(seed)) as client:
        served = await ranks_through_server(client, task.dataset, task.held_out)
        table = await catalog_through_server(client, task.dataset, split.task)
    sampled = measures_of_ranks(served.ranks)
    full = full_measures(rank_catalog(table, split.task, task.dataset.posts, length=0))
    rows = OrderedRows(sampled[f"hr@{TOP}"], sampled[f"ndcg@{TOP}"], full[f"ndcg@{TOP}"])
    bench.out.print(f"seed {seed}: {rows.quality().line()}, fitted in {seconds:.0f} s")
    return rows


async def others(bench: Bench, options: Sequence[str]) -> dict[str, OrderedQuality]:
    """The baselines, tuned in this run, and SASRec as it was trained beforehand; says what is missing.

    Raises:
        RuntimeError: The comparison failed.
    """
    comparison = await compare(bench, 0, ("--protocol", "latest", *options))
    for name, why in comparison["left_out"].items():
        bench.out.print(f"{name} was left out: {why}")
    found = {
        name: OrderedQuality.of_means(means)
        for name, means in comparison["recommenders"].items()
        if name != NEUCF
    }
    sasrec, remark = recorded(bench.task)
    bench.out.print(remark)
    return found if sasrec is None else {**found, SASREC: sasrec}


async def run(data: Path, seeds: int, shuffled: bool, recipe: Sequence[str], out: Console) -> None:
    """Runs all steps and prints the table.

    Raises:
        InvalidInput: The folder cannot be read.
        RuntimeError: Nothing can be ranked, or a step failed.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            complete = await asyncio.to_thread(with_negatives, data, folder, out)
            if shuffled:
                complete = await asyncio.to_thread(with_shuffled_times, complete, folder)
                out.print("each user's training pairs have swapped their times at random")
            await apply_schema(postgres.url)
            await train("import", "ncf", str(complete), "--database-url", postgres.url)
            task = await asyncio.to_thread(NcfTask.of, complete)
            pairs, posts = len(task.held_out.users), len(task.dataset.posts.ids)
            among = task.held_out.mean_candidates
            out.print(f"{pairs:,} pairs, each among {among:.1f} items on average, and among {posts:,}")
            bench = Bench(complete, task, postgres.url, folder, out)
            served = [await run_seed(bench, seed, recipe) for seed in range(seeds)]
            beside, problem = dict[str, OrderedQuality](), ""
            try:
                beside = await others(bench, COMPARISON)
            except RuntimeError as error:  # the fits took longer than what has failed
                problem = f"no baselines: {error}"
    out.print(f"{' '.join(recipe)}; {(time.monotonic() - began) / 60:.0f} minutes in all")
    report(served, beside, out)
    if problem:
        raise RuntimeError(problem)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder in the NCF format, with times")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of fits")
    parser.add_argument("--shuffled", action="store_true", help="shuffle each user's training times")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"instead of {' '.join(RECIPE)}")
    options = parser.parse_args()
    chosen = [word for choice in options.set or RECIPE for word in ("--set", choice)]
    console = Console(highlight=False, soft_wrap=True)
    try:
        asyncio.run(run(options.data, options.seeds, options.shuffled, chosen, console))
    except (RuntimeError, TrainingError) as error:
        sys.exit(f"error: {error}")

"""`make bench-warm-start DATA=DIR`: a warm start beside a full retraining, in quality and in time.

Of each user of a folder in the NCF format one training pair is held out. Today is all the others; yesterday
is 95 % of them, without a few users and posts, which are new today. The warm start begins from a fit on
yesterday. Both fits of today are evaluated on the held-out pairs by the expected NDCG@10 among 99 sampled
posts.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from animora_artifact import Artifact
from animora_artifact.network import load_network
from animora_training.data.dataset import DoubleArray
from animora_training.evaluation.bootstrap import paired_bootstrap
from animora_training.evaluation.measures import hypergeometric_pmf
from animora_training.evaluation.network_ranking import TOP, PostScorer, rank_held_out
from animora_training.importers.ncf_import import read_feed
from animora_training.modeling.config import FitConfig
from animora_training.pipeline.fit import Fit
from tests.benchmarks.accuracy import RECIPE
from tests.support.datasets import as_dataset
from tests.support.days import Days, fitted, parent

SAMPLED = 99
SEED = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fit with its time and quality.

    Attributes:
        fit: The fit.
        seconds: Duration without reading the data.
        ndcg: float64 (m), expected NDCG@10 of each held-out pair.
    """

    fit: Fit
    seconds: float
    ndcg: DoubleArray


def expected_ndcg(version: Artifact, days: Days) -> DoubleArray:
    """Expected NDCG@10 among SAMPLED others, float64 (m); 0 for users outside the vocabulary."""
    held_out = days.held_out
    scorer = PostScorer(load_network(version.model, torch.device("cpu")), version.vocabulary, days.today)
    ranks = rank_held_out(days.today.posts, scorer.candidates(held_out), held_out)
    chances = islice(hypergeometric_pmf(ranks, held_out.present[:, 1:].sum(axis=1), SAMPLED), TOP)
    gains = sum(chance / np.log2(place + 2) for place, chance in enumerate(chances))
    return np.where(scorer.knows(held_out.users), gains, 0.0)


def measured(days: Days, make: Callable[[], Fit]) -> Outcome:
    """Times and evaluates a fit."""
    began = time.perf_counter()
    fit = make()
    seconds = time.perf_counter() - began
    return Outcome(fit, seconds, expected_ndcg(fit.artifact, days))


def main(data: Path, choices: Sequence[str], seed: int, out: Console) -> None:
    """Fits three times and compares.

    Raises:
        InvalidInput: The folder cannot be read.
    """
    config = FitConfig.from_choices(choices, seed)
    days = Days.of(as_dataset(read_feed(data)), seed)
    if not config.embeddings:
        days = days.without_embeddings()
    out.print(
        f"{' '.join(choices)}: {len(days.yesterday.pairs):,} pairs yesterday, {len(days.today.pairs):,} "
        f"today, {int(days.new_users.sum())} new users, {int(days.new_posts.sum())} new posts"
    )
    yesterday = measured(days, lambda: fitted(days.yesterday, config))
    earlier = parent(yesterday.fit, days.yesterday)
    outcomes = {
        "yesterday's version": yesterday,
        "warm start": measured(days, lambda: fitted(days.today, config, earlier)),
        "full retraining": measured(days, lambda: fitted(days.today, config)),
    }
    out.print(comparison(days, outcomes))
    warm, full = outcomes["warm start"], outcomes["full retraining"]
    difference = paired_bootstrap(warm.ndcg, full.ndcg, seed)
    out.print(
        f"ndcg@{TOP} warm={warm.ndcg.mean():.4f} full={full.ndcg.mean():.4f} "
        f"difference={difference.mean:+.4f} (standard error {difference.standard_error:.4f}), "
        f"{warm.seconds / full.seconds:.2f} of its time"
    )


def comparison(days: Days, outcomes: Mapping[str, Outcome]) -> Table:
    """A row for each fit."""
    held_out = days.held_out
    users, posts = days.new_users[held_out.users], days.new_posts[held_out.candidates[:, 0]]
    groups = {"all": np.ones(len(users), np.bool_), "new users": users, "new posts": posts}
    table = Table(
        "", *(f"{name}\n{rows.sum():,}" for name, rows in groups.items()), "epochs", "seconds", box=None
    )
    for name, outcome in outcomes.items():
        table.add_row(
            name,
            *(f"{outcome.ndcg[rows].mean():.4f}" for rows in groups.values()),
            str(outcome.fit.record.chosen_epoch),
            f"{outcome.seconds:.0f}",
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder in the NCF format")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the days and of the fits")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"instead of {' '.join(RECIPE)}")
    options = parser.parse_args()
    main(options.data, options.set or RECIPE, options.seed, Console(highlight=False, soft_wrap=True))

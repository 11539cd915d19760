"""A fit: how long to train is chosen on a hold-out, then everything is trained for as long."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import numpy as np

from animora_artifact import Artifact
from animora_training.data.dataset import BoolArray, Dataset, IntArray
from animora_training.data.split import HeldOut, Split, leave_one_out
from animora_training.errors import NothingToLearn
from animora_training.fitting.export import FoldedNeuCF, Origin, export
from animora_training.judging.baselines import heuristic_scores, popularity_scores
from animora_training.judging.evaluation import TOP, PostScorer, Quality, rank_held_out
from animora_training.learning.config import FitConfig
from animora_training.learning.network import NeuCF
from animora_training.learning.trainer import epochs
from animora_training.learning.training_set import TrainingSet, training_set


@dataclass(frozen=True, slots=True)
class Progress:
    """What a fit has just done.

    Attributes:
        stage: "hold-out" or "refit".
        epoch: The epoch that has ended, from 1.
        epochs: How many there will be at most.
        loss: Its mean log loss.
        ndcg: NDCG@10 on the users by whom the epoch is chosen; None in the refit.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    ndcg: float | None


@dataclass(frozen=True, slots=True)
class HoldOutReport:
    """How good the recipe is on interactions that it has not seen.

    Attributes:
        epochs: The epochs after which NDCG@10 was best for one half of the users.
        users: How many users are in the other half, of which the rest speaks.
        neucf: The network's quality after those epochs.
        popularity: The quality of ordering by the number of interactions.
        heuristic: The quality of the server's heuristic.
    """

    epochs: int
    users: int
    neucf: Quality
    popularity: Quality
    heuristic: Quality

    def metrics(self) -> dict[str, float]:
        """As a manifest keeps them."""
        qualities = {"": self.neucf, "popularity_": self.popularity, "heuristic_": self.heuristic}
        metrics = {"holdout_users": float(self.users)}
        for prefix, quality in qualities.items():
            metrics[f"{prefix}hr@{TOP}"] = round(quality.hit_ratio, 6)
            metrics[f"{prefix}ndcg@{TOP}"] = round(quality.ndcg, 6)
        return metrics


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted version and what is known about it."""

    artifact: Artifact
    report: HoldOutReport


def fit(
    dataset: Dataset, config: FitConfig, created_at: datetime, on_progress: Callable[[Progress], None]
) -> Fit:
    """Chooses the number of epochs on a hold-out, then trains on all interactions.

    Args:
        dataset: All interactions.
        config: The recipe.
        created_at: When the version is made.
        on_progress: Told of every epoch.

    Raises:
        NothingToLearn: There are too few interactions.
    """
    report = judge(dataset, config, on_progress)
    pairs = dataset.pairs()
    data = training_set(dataset, pairs)
    for epoch in islice(epochs(data, config), report.epochs):
        on_progress(Progress("refit", epoch.number, report.epochs, epoch.loss, None))
    origin = Origin(
        created_at=created_at,
        hyperparameters={**config.hyperparameters(), "epochs": report.epochs},
        metrics=report.metrics(),
    )
    return Fit(export(epoch.network.eval(), data, pairs, origin), report)


def judge(dataset: Dataset, config: FitConfig, on_progress: Callable[[Progress], None]) -> HoldOutReport:
    """Trains without the held-out pairs and stops when the held-out are ranked no better for a while.

    The epoch is chosen by one half of the users and the quality reported for the other, so that the choice
    does not flatter the report.

    Raises:
        NothingToLearn: No user has two interactions.
    """
    rng = np.random.default_rng(config.seed)
    split = leave_one_out(dataset, config.holdout_negatives, rng)
    if len(split.held_out.users) < 2:
        raise NothingToLearn(
            "fewer than two users have interacted with two or more posts, so nothing can be held out: "
            "import more likes and comments"
        )
    data = training_set(dataset, split.training)
    choosing = np.zeros(len(split.held_out.users), np.bool_)
    choosing[rng.permutation(len(choosing))[: len(choosing) // 2]] = True
    best_epoch, best, reported = 0, -1.0, Quality(0.0, 0.0)
    for epoch in epochs(data, config):
        ranks = _ranks(epoch.network, data, dataset, split.held_out)
        score = Quality.of(ranks[choosing]).ndcg
        on_progress(Progress("hold-out", epoch.number, config.max_epochs, epoch.loss, score))
        if score > best:
            best_epoch, best, reported = epoch.number, score, Quality.of(ranks[~choosing])
        if epoch.number == config.max_epochs or epoch.number - best_epoch >= config.patience:
            break
    popularity, heuristic = _baselines(dataset, split, ~choosing)
    return HoldOutReport(best_epoch, int((~choosing).sum()), reported, popularity, heuristic)


def _ranks(network: NeuCF, data: TrainingSet, dataset: Dataset, held_out: HeldOut) -> IntArray:
    scorer = PostScorer(FoldedNeuCF(network).eval(), data.vocabulary, dataset)
    return rank_held_out(dataset.posts, scorer.candidates(held_out), held_out)


def _baselines(dataset: Dataset, split: Split, reported: BoolArray) -> tuple[Quality, Quality]:
    """The quality of popularity and of the heuristic, which see the same events as the network."""
    events = dataset.events
    kept = np.isin(
        dataset.pair_keys(events.users, events.posts),
        dataset.pair_keys(split.training.users, split.training.posts),
    )
    training, held_out = events.take(kept), split.held_out.take(reported)
    popularity, heuristic = (
        Quality.of(rank_held_out(dataset.posts, scores(dataset.posts, training, held_out), held_out))
        for scores in (popularity_scores, heuristic_scores)
    )
    return popularity, heuristic

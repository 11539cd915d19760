"""Compares a new version with the active version, on held-out pairs that neither was trained on."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.manifest import PairedDifference
from animora_artifact.network import load_network
from animora_artifact.vocabulary import UNKNOWN_ROW, RowIndex
from animora_training.data.clock import last_believed
from animora_training.data.dataset import BoolArray, Dataset, DoubleArray, IntArray, collect
from animora_training.data.split import HeldOut
from animora_training.errors import InvalidInput, NothingToLearn, WidthMismatch
from animora_training.evaluation.network_ranking import PostScorer, rank_held_out
from animora_training.modeling.config import FitConfig
from animora_training.pipeline.held_out_ranks import FEWEST_PAIRS, HeldOutRanks
from animora_training.pipeline.record import EpochRecord
from animora_training.pipeline.refit import recipe_of, refit

# Seconds; data windows are stored with microseconds.
ROUNDING = 1e-5


def compare_with_active(
    evaluated: HeldOutRanks,
    config: FitConfig,
    active: Artifact,
    on_epoch: Callable[[EpochRecord, int], None],
) -> PairedDifference:
    """Compares the NDCG@10 of a new network with the active version, paired by held-out interaction.

    Uses the held-out pairs that the active version cannot have been trained on (see `unseen`): it ranks them
    as it serves, and the heuristic ranks for users that it does not know. If there are fewer than
    FEWEST_PAIRS, the recipe of the active version is refitted without the held-out pairs and compared on all
    of them, unless both recipes are the same.

    Args:
        evaluated: Ranks by the new network.
        config: Recipe of the new network.
        active: The active version.
        on_epoch: Called with each epoch of a refit and the number of epochs of its stage.

    Returns:
        The difference; with `pairs=0` and a reason in `basis` if the two cannot be compared.
    """
    dataset, reported = evaluated.holdout.dataset, evaluated.holdout.reported
    new = unseen(active, dataset, reported)
    try:
        if int(new.sum()) >= FEWEST_PAIRS:
            basis = "held-out pairs that are newer than the active version's data"
            return evaluated.compare(_ranks(active, evaluated), basis, new)
        if _same_recipe(active, config):
            few = f"fewer than {FEWEST_PAIRS} held-out pairs are newer than its data"
            return PairedDifference(pairs=0, basis=f"{few}, and its recipe is the same")
        again = refit(_without_held_out(evaluated, dataset), active, on_epoch)
        return evaluated.compare(
            _ranks(again, evaluated), "held-out pairs, the active version's recipe fitted again without them"
        )
    except (InvalidInput, NothingToLearn, WidthMismatch) as error:
        return PairedDifference(pairs=0, basis=str(error))


def unseen(version: Artifact, dataset: Dataset, held_out: HeldOut) -> BoolArray:
    """Bool (m): the held-out pairs that a version cannot have been trained on.

    The user or the post has no row in the version's tables, or the first interaction came after the version's
    data window. A pair with an implausible time from the future does not count as unseen.
    """
    users, posts = held_out.users, held_out.candidates[:, 0]
    user_rows = RowIndex(version.vocabulary.user_ids).rows(dataset.user_ids[users])
    post_rows = RowIndex(version.vocabulary.post_ids).rows(dataset.posts.ids[posts])
    end = version.manifest.data_window.end
    last = math.inf if end is None else end.timestamp() + ROUNDING
    new: BoolArray = np.minimum(user_rows, post_rows) == UNKNOWN_ROW
    began = _first_event_times(dataset, users, posts)
    return new | ((began > last) & (began <= last_believed(dataset.pairs.latest)))


def _first_event_times(dataset: Dataset, users: IntArray, posts: IntArray) -> DoubleArray:
    """Time of the first like or comment of each pair, float64 (m), seconds since the epoch."""
    events = dataset.events
    began = np.empty(len(users))
    for row, (user, post) in enumerate(zip(users.tolist(), posts.tolist(), strict=True)):
        own = slice(events.offsets[user], events.offsets[user + 1])
        began[row] = events.times[own][events.posts[own] == post].min()
    return began


def _ranks(version: Artifact, evaluated: HeldOutRanks) -> IntArray:
    """Ranks int64 (m) of the reported pairs by a version as it is served, heuristic included."""
    holdout = evaluated.holdout
    dimensions, reported = version.manifest.dimensions, holdout.reported
    fitted = holdout.dataset.with_widths(image=dimensions.image, caption=dimensions.caption)
    scorer = PostScorer(load_network(version.model, torch.device("cpu")), version.vocabulary, fitted)
    ranks = rank_held_out(fitted.posts, scorer.candidates(reported), reported)
    return np.where(scorer.knows(reported.users), ranks, holdout.heuristic_ranks())


def _same_recipe(active: Artifact, config: FitConfig) -> bool:
    """Whether two recipes are equal apart from tuned ALS settings and seeds."""
    theirs = recipe_of(active)
    given = {name: value for name in ("als_alpha", "als_regularisation") if (value := getattr(config, name))}
    if any(active.manifest.hyperparameters.get(name) != value for name, value in given.items()):
        return False
    return theirs == replace(config, als_alpha=0.0, als_regularisation=0.0, seed=theirs.seed)


def _without_held_out(evaluated: HeldOutRanks, dataset: Dataset) -> Dataset:
    split = evaluated.holdout.split
    events = collect(split.remaining_events(dataset).chunks(), len(dataset.user_ids))
    return replace(dataset, pairs=split.training, events=events)

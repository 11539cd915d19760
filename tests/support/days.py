"""Splits a data set into two days: the data of a fit, and those of the next fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

from animora_training.data.dataset import BoolArray, Dataset
from animora_training.data.split import HeldOut, hold_out_pairs, latest_pairs
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import SINGLE_PROCESS
from animora_training.pipeline.checkpoint import Checkpoints
from animora_training.pipeline.fit import Fit, FitContext, fit
from animora_training.pipeline.record import EpochRecord
from animora_training.pipeline.seen_pairs import SeenPairs
from animora_training.pipeline.warm_start import ParentVersion

# Number of test users, and negatives of each test pair.
MAX_USERS, NEGATIVES = 20_000, 999


@dataclass(frozen=True, slots=True)
class Days:
    """Two days of one feed.

    Attributes:
        yesterday: What happened until then.
        today: That, and what happened since.
        held_out: One pair of each user who has two, which neither has.
        new_users: bool (u), who has done nothing until yesterday.
        new_posts: bool (p), which were not there until yesterday.
    """

    yesterday: Dataset
    today: Dataset
    held_out: HeldOut
    new_users: BoolArray
    new_posts: BoolArray

    @classmethod
    def of(cls, dataset: Dataset, seed: int, share: float = 0.05, new: float = 0.02) -> "Days":
        """Today has all pairs but those held out, yesterday less.

        Args:
            dataset: A feed.
            seed: Of chance.
            share: Of today's pairs that yesterday has not; but for those of new users and posts the latest,
                by chance where times are the same.
            new: Of the users, and of the posts, that are new today.
        """
        rng = np.random.default_rng(seed)
        chosen = latest_pairs(dataset, rng).sample_users(MAX_USERS, rng)
        split = hold_out_pairs(dataset, chosen, NEGATIVES, rng)
        today = without(dataset, _held_out(dataset, split.remaining.positions))
        pairs = today.pairs
        new_users = rng.random(len(today.user_ids)) < new
        new_posts = rng.random(len(today.posts.ids)) < new
        missing = new_users[pairs.users] | new_posts[pairs.posts]
        latest = np.lexsort((rng.random(len(pairs)), pairs.times, missing))[::-1]
        missing[latest[: round(share * len(pairs))]] = True
        yesterday = without(today, missing)
        # What is not there yet is nothing that nobody likes.
        posts = replace(yesterday.posts, deleted=yesterday.posts.deleted | new_posts)
        return cls(replace(yesterday, posts=posts), today, split.held_out, new_users, new_posts)

    def without_embeddings(self) -> "Days":
        """The same days, as if no post had an image or a caption."""
        yesterday, today = self.yesterday.without_embeddings(), self.today.without_embeddings()
        return replace(self, yesterday=yesterday, today=today)


def without(dataset: Dataset, missing: BoolArray) -> Dataset:
    """A data set without some of its pairs, and without the events that make them up."""
    pairs, events = dataset.pairs, dataset.events
    gone = dataset.pair_keys(pairs.users, pairs.posts)[missing]
    kept = ~np.isin(dataset.pair_keys(events.users, events.posts), gone)
    return replace(dataset, pairs=pairs.take(~missing), events=events.take(kept))


def parent(fitted: Fit, dataset: Dataset) -> ParentVersion:
    """A fit on a data set, as something to start from."""
    pairs = dataset.pairs
    return ParentVersion(
        fitted.warm_start_state, SeenPairs(dataset.user_ids, dataset.posts.ids, pairs.offsets, pairs.posts)
    )


def fitted(
    dataset: Dataset,
    config: FitConfig,
    earlier: ParentVersion | None = None,
    on_epoch: Callable[[EpochRecord, int], None] = lambda epoch, epochs: None,
) -> Fit:
    """A fit that leaves nothing on the disk."""
    context = FitContext(
        created_at=datetime.now(UTC),
        device=torch.device("cpu"),
        group=SINGLE_PROCESS,
        checkpoints=Checkpoints(None, ""),
        on_epoch=on_epoch,
    )
    return fit(dataset, config, context, earlier)


def _held_out(dataset: Dataset, positions: np.ndarray) -> BoolArray:
    held_out = np.zeros(len(dataset.pairs), np.bool_)
    held_out[positions] = True
    return held_out

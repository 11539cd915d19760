"""Samples the random parts of a training step: negatives, history dropout, dropped ids.

Each step has a generator seeded by the seed, the epoch and the step. So a resumed fit draws the same samples
as an uninterrupted one, and all processes of a group draw the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.training_set import TrainingSet

# A small data set needs enough steps before the learning rate reaches zero.
MIN_STEPS, MIN_USERS = 32, 8
# Positives of one user in a step; no user of MovieLens 1M has more.
MAX_LIKES = 4096


@dataclass(frozen=True, slots=True)
class StepSample:
    """The users and posts of a step. Posts are indices into `rows`.

    Attributes:
        users: int64 (b), user rows of this process, ascending.
        rows: int64 (t), ascending post rows that the step touches, the unknown row 0 first.
        dropped: bool (t), the posts whose id is replaced by the unknown row.
        drawn: int64 (m), the sampled posts: negatives of all users who do not like them.
        positives: int64 (p), the users' positives, user by user; at most `max_likes` of each, sampled.
        segments: int64 (p), the user (index into `users`) of each positive.
        positive_weights: floating (p), how many of its user's positives each one stands for; 1 unless
            sampled.
        hit_users: int64 (k), indices of users with a sampled post among their positives (accidental hits).
        hit_columns: int64 (k), the index into `drawn` of each accidental hit.
        history: floating (p), the weight of each positive in its user's history sum; 0 where dropped.
        noise: floating (p), uniform in [0, 1), for a loss that draws a negative for each positive.
        kept: floating (b, first hidden width), the dropout mask: 0 for dropped units, 1 / (1 - rate) for the
            rest; None without dropout.
    """

    users: Tensor
    rows: Tensor
    dropped: Tensor
    drawn: Tensor
    positives: Tensor
    segments: Tensor
    positive_weights: Tensor
    hit_users: Tensor
    hit_columns: Tensor
    history: Tensor
    noise: Tensor
    kept: Tensor | None

    def accidental_hits(self) -> Tensor:
        """Bool (b, m): the sampled posts that are positives of the user."""
        hits = torch.zeros(len(self.users), len(self.drawn), dtype=torch.bool, device=self.rows.device)
        hits[self.hit_users, self.hit_columns] = True
        return hits


class StepSampler:
    """Draws the samples of every step.

    Args:
        data: Training data.
        config: Sample sizes and rates.
        group: The processes that share the users.
        max_likes: Maximum number of positives of a user in a step. Beyond it a weighted sample is drawn.
    """

    def __init__(
        self, data: TrainingSet, config: FitConfig, group: ProcessGroup, max_likes: int = MAX_LIKES
    ) -> None:
        self._max_likes = max_likes
        self._data = data
        self._config = config
        self._group = group
        self._drop = drop_probabilities(data.counts, config.drop_rate, config.drop_scale)
        self.users_per_step = min(config.users_per_step, max((data.users - 1) // MIN_STEPS, MIN_USERS))
        self.steps = -(-(data.users - 1) // self.users_per_step)

    def order(self, epoch: int) -> Tensor:
        """User rows int64 (users - 1) in the random order of an epoch."""
        order = torch.randperm(self._data.users - 1, generator=self._generator(epoch, self.steps))
        users: Tensor = 1 + order.to(self._data.offsets.device)
        return users

    def step(self, epoch: int, index: int, users: Tensor) -> StepSample:
        """Draws the sample of a step for user rows int64; only this process's users are kept."""
        generator = self._generator(epoch, index)
        device = users.device
        users = users.sort().values
        all_posts, lengths = self._data.histories(users)
        all_segments = torch.arange(len(users), device=device).repeat_interleave(lengths)
        sample = self._sample(lengths, generator)
        posts, segments = all_posts[sample], all_segments[sample]
        positive_weights = (lengths / lengths.clamp(max=self._max_likes))[segments]
        hidden = torch.rand(len(posts), generator=generator).to(device) < self._config.history_drop
        weights = history_weights(lengths)[segments] * positive_weights / (1 - self._config.history_drop)
        history = weights.masked_fill(hidden, 0.0)
        drawn = sample_negatives(self._data, self._config.posts_per_step, generator)
        rows = self._touched(drawn, posts)
        dropped = torch.rand(len(rows), generator=generator).to(device) < self._drop[rows]
        noise = torch.rand(len(posts), generator=generator).to(device)
        kept = self._kept(len(users), generator)
        mine = self._group.owns(users)
        is_own_positive = mine[segments]
        place = mine.cumsum(0) - 1
        columns = torch.searchsorted(drawn, all_posts).clamp(max=len(drawn) - 1)
        is_hit = (drawn[columns] == all_posts) & mine[all_segments]
        return StepSample(
            users=users[mine],
            rows=rows,
            dropped=dropped,
            drawn=torch.searchsorted(rows, drawn),
            positives=torch.searchsorted(rows, posts[is_own_positive]),
            segments=place[segments[is_own_positive]],
            positive_weights=positive_weights[is_own_positive],
            hit_users=place[all_segments[is_hit]],
            hit_columns=columns[is_hit],
            history=history[is_own_positive],
            noise=noise[is_own_positive],
            kept=None if kept is None else kept.to(device)[mine],
        )

    def _sample(self, lengths: Tensor, generator: torch.Generator) -> Tensor | slice:
        """Ascending indices of the positives in a step; users have `lengths`, int64 (b), positives."""
        if not len(lengths) or int(lengths.max()) <= self._max_likes:
            return slice(None)
        places, start = [], 0
        for length in lengths.tolist():
            if length <= self._max_likes:
                places.append(torch.arange(start, start + length))
            else:
                drawn = torch.randperm(length, generator=generator)[: self._max_likes]
                places.append(start + drawn.sort().values)
            start += length
        return torch.cat(places).to(lengths.device)

    def _kept(self, users: int, generator: torch.Generator) -> Tensor | None:
        share = 1 - self._config.dropout
        if share == 1:
            return None
        return (torch.rand(users, self._config.hidden[0], generator=generator) < share).float() / share

    def _touched(self, drawn: Tensor, posts: Tensor) -> Tensor:
        everything = len(self._data.counts)
        if everything <= self._config.posts_per_step:
            return torch.arange(everything, device=drawn.device)
        return touched_rows(drawn, posts)

    def _generator(self, epoch: int, index: int) -> torch.Generator:
        return seeded_generator(self._config.seed, epoch, index)


def sample_negatives(data: TrainingSet, wanted: int, generator: torch.Generator) -> Tensor:
    """Rows int64 (m), ascending, of at most `wanted` live posts; all of them if there are no more."""
    live = data.negatives
    if len(live) <= wanted:
        return live
    # With repeats removed, so slightly fewer than wanted: cheaper than a permutation.
    drawn = torch.randint(len(live), (wanted,), generator=generator).to(live.device)
    distinct: Tensor = torch.unique(drawn)
    return live[distinct]


def touched_rows(drawn: Tensor, posts: Tensor) -> Tensor:
    """The distinct rows int64 (t) of a step, ascending: row 0, the sampled posts, and other posts' rows."""
    touched: Tensor = torch.unique(torch.cat((drawn.new_zeros(1), drawn, posts)))
    return touched


def seeded_generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded by several numbers, the seed first."""
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def history_weights(lengths: Tensor) -> Tensor:
    """Weights float32 (b) of a post in histories of the given lengths int64 (b): 1 / √length, 0 for none.

    As for implicit feedback in SVD++ (Koren 2008).
    """
    return torch.where(lengths > 0, lengths, 1).float().rsqrt() * (lengths > 0)


def drop_probabilities(counts: Tensor, rate: float, scale: float) -> Tensor:
    """Probability float32 (post rows) that a post's id is dropped, higher for rare posts.

    rate + (1 - rate) · scale / (scale + count); `rate` for a post without likes, which says nothing about
    unknown posts; 1 for the unknown row 0.
    """
    rare = scale / (scale + counts.clamp(min=1)) * (counts > 0)
    probabilities = rate + (1 - rate) * rare
    probabilities[0] = 1.0
    return probabilities

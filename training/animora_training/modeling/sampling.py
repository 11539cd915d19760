"""What chance decides in a step: the negatives, what is hidden of histories, which ids are dropped.

Each step has a source of chance of its own, made from the seed, the epoch and the step. So a resumed fit
draws what the one that was killed would have drawn, and every process of several draws the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.training_set import TrainingSet

# With fewer steps an epoch, a small data set would be hardly learnt from when the learning rate is zero.
MIN_STEPS, MIN_USERS = 32, 8
# Of one user in a step: more than the most active user of MovieLens 1M has.
MOST_LIKES = 4096


@dataclass(frozen=True, slots=True)
class StepSample:
    """A step's users and posts. Posts are numbered by their place in `rows`.

    Attributes:
        users: int64 (b), user rows of this process, ascending.
        rows: int64 (t), ascending post rows that the step touches, the unknown row 0 first.
        dropped: bool (t), whose ids are dropped.
        drawn: int64 (m), the posts that are negatives of all users but those who like them.
        positives: int64 (p), the users' positives, user by user; of one with very many a random sample.
        segments: int64 (p), which user each positive belongs to.
        represents: floating (p), how many of its user's positives each one stands for; 1 unless sampled.
        takers: int64 (k), users who have one of the drawn posts among all their positives.
        taken_columns: int64 (k), the place in `drawn` of the post that each of the takers has.
        history: floating (p), the weight of each positive in the sum that describes its user; 0 where hidden.
        luck: floating (p), below 1, for what a loss leaves to chance about each positive.
        kept: floating (b, first hidden width), 0 where a unit is dropped for a user and over 1 where not;
            None without dropout.
    """

    users: Tensor
    rows: Tensor
    dropped: Tensor
    drawn: Tensor
    positives: Tensor
    segments: Tensor
    represents: Tensor
    takers: Tensor
    taken_columns: Tensor
    history: Tensor
    luck: Tensor
    kept: Tensor | None

    def taken(self) -> Tensor:
        """Bool (b, m): where a drawn post is a positive of the user."""
        taken = torch.zeros(len(self.users), len(self.drawn), dtype=torch.bool, device=self.rows.device)
        taken[self.takers, self.taken_columns] = True
        return taken


class StepSampler:
    """Draws for every step of every epoch.

    Args:
        data: From which.
        config: How many.
        ranks: The processes that share the users.
        most_likes: Positives of one user in a step. Of a user with more a sample is drawn, each of which
            counts for several.
    """

    def __init__(
        self, data: TrainingSet, config: FitConfig, ranks: ProcessGroup, most_likes: int = MOST_LIKES
    ) -> None:
        self._most_likes = most_likes
        self._data = data
        self._config = config
        self._ranks = ranks
        self._drop = drop_probabilities(data.counts, config.drop_rate, config.drop_scale)
        self.users_per_step = min(config.users_per_step, max((data.users - 1) // MIN_STEPS, MIN_USERS))
        self.steps = -(-(data.users - 1) // self.users_per_step)

    def order(self, epoch: int) -> Tensor:
        """User rows int64 (users - 1) in the order of an epoch."""
        order = torch.randperm(self._data.users - 1, generator=self._chance(epoch, self.steps))
        users: Tensor = 1 + order.to(self._data.offsets.device)
        return users

    def step(self, epoch: int, index: int, users: Tensor) -> StepSample:
        """Draws for the user rows int64 of a step, of which this process keeps its own."""
        chance = self._chance(epoch, index)
        device = users.device
        users = users.sort().values
        all_posts, lengths = self._data.histories(users)
        all_segments = torch.arange(len(users), device=device).repeat_interleave(lengths)
        sample = self._sample(lengths, chance)
        posts, segments = all_posts[sample], all_segments[sample]
        represents = (lengths / lengths.clamp(max=self._most_likes))[segments]
        hidden = torch.rand(len(posts), generator=chance).to(device) < self._config.history_drop
        weights = history_weights(lengths)[segments] * represents / (1 - self._config.history_drop)
        history = weights.masked_fill(hidden, 0.0)
        drawn = self._negatives(chance)
        rows = self._touched(drawn, posts)
        dropped = torch.rand(len(rows), generator=chance).to(device) < self._drop[rows]
        luck = torch.rand(len(posts), generator=chance).to(device)
        kept = self._kept(len(users), chance)
        mine = self._ranks.owns(users)
        of_mine = mine[segments]
        place = mine.cumsum(0) - 1
        columns = torch.searchsorted(drawn, all_posts).clamp(max=len(drawn) - 1)
        taken = (drawn[columns] == all_posts) & mine[all_segments]
        return StepSample(
            users=users[mine],
            rows=rows,
            dropped=dropped,
            drawn=torch.searchsorted(rows, drawn),
            positives=torch.searchsorted(rows, posts[of_mine]),
            segments=place[segments[of_mine]],
            represents=represents[of_mine],
            takers=place[all_segments[taken]],
            taken_columns=columns[taken],
            history=history[of_mine],
            luck=luck[of_mine],
            kept=None if kept is None else kept.to(device)[mine],
        )

    def _sample(self, lengths: Tensor, chance: torch.Generator) -> Tensor | slice:
        """Places, ascending, of the positives that a step learns from; users have so many, int64 (b)."""
        if not len(lengths) or int(lengths.max()) <= self._most_likes:
            return slice(None)
        places, start = [], 0
        for length in lengths.tolist():
            if length <= self._most_likes:
                places.append(torch.arange(start, start + length))
            else:
                drawn = torch.randperm(length, generator=chance)[: self._most_likes]
                places.append(start + drawn.sort().values)
            start += length
        return torch.cat(places).to(lengths.device)

    def _kept(self, users: int, chance: torch.Generator) -> Tensor | None:
        share = 1 - self._config.dropout
        if share == 1:
            return None
        return (torch.rand(users, self._config.hidden[0], generator=chance) < share).float() / share

    def _negatives(self, chance: torch.Generator) -> Tensor:
        live, wanted = self._data.negatives, self._config.posts_per_step
        if len(live) <= wanted:
            return live
        # Distinct ones, so a few less than wanted: cheaper than a permutation of all.
        drawn = torch.randint(len(live), (wanted,), generator=chance).to(live.device)
        distinct: Tensor = torch.unique(drawn)
        return live[distinct]

    def _touched(self, drawn: Tensor, posts: Tensor) -> Tensor:
        everything = len(self._data.counts)
        if everything <= self._config.posts_per_step:
            return torch.arange(everything, device=drawn.device)
        touched: Tensor = torch.unique(torch.cat((drawn.new_zeros(1), drawn, posts)))
        return touched

    def _chance(self, epoch: int, index: int) -> torch.Generator:
        return seeded_generator(self._config.seed, epoch, index)


def seeded_generator(*numbers: int) -> torch.Generator:
    """A source of chance on the CPU, decided by these numbers; the seed is the first."""
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def history_weights(lengths: Tensor) -> Tensor:
    """The weight float32 (b) of each post in a history of so many, int64 (b): 1 / √length, 0 for none.

    As the implicit feedback in SVD++ (Koren 2008).
    """
    return torch.where(lengths > 0, lengths, 1).float().rsqrt() * (lengths > 0)


def drop_probabilities(counts: Tensor, rate: float, scale: float) -> Tensor:
    """The chance float32 (post rows) that a post's id is dropped: rare posts' more often.

    rate + (1 - rate) · scale / (scale + count), and 1 for the unknown row 0. It is the rate for a post that
    nobody likes: it says nothing of one that is unknown.
    """
    rare = scale / (scale + counts.clamp(min=1)) * (counts > 0)
    probabilities = rate + (1 - rate) * rare
    probabilities[0] = 1.0
    return probabilities

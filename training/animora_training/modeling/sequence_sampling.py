"""Samples the steps of sequence training: windows of each user's events, and shared negatives.

An event is a pair of the training set: of several likes and comments on one post the latest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.sampling import (
    drop_probabilities,
    sample_negatives,
    seeded_generator,
    touched_rows,
)
from animora_training.modeling.sequence_model import SequenceConfig
from animora_training.modeling.training_set import TrainingSet

WINDOWS = (1 << 32) - 1  # in place of a step's number, in the seed of an epoch's windows


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of consecutive events, each predicted from those before it.

    Attributes:
        users: int64 (w), user rows.
        starts: int64 (w), index of the first event of each window from which the next one is predicted;
            negative where the window begins before the user's first event.
    """

    users: Tensor
    starts: Tensor


@dataclass(frozen=True, slots=True)
class SequenceSample:
    """The windows of a step, `length` events each, and what the step draws. Posts are indices into `rows`.

    Attributes:
        rows: int64 (t), ascending post rows that the step touches, the unknown row 0 first.
        dropped: bool (t), the posts whose id is replaced by the unknown row.
        drawn: int64 (m), the sampled posts: negatives of all events.
        events: int64 (w, 2 · length - 1), the posts of the events before the window and in it, oldest first;
            0 where absent.
        kinds: int64 (w, 2 · length - 1), -1 where absent.
        times: float64 (w, 2 · length - 1), seconds since the epoch, 0 where absent.
        next_posts: int64 (w, length), the post of the event after each event of the window.
        predicted: bool (w, length), the events of the window that have a next one.
    """

    rows: Tensor
    dropped: Tensor
    drawn: Tensor
    events: Tensor
    kinds: Tensor
    times: Tensor
    next_posts: Tensor
    predicted: Tensor


class SequenceSampler:
    """Draws the samples of every step.

    In an epoch each event of a user but the first is predicted once. The users' windows begin at random
    places, so that an event is predicted in other windows in each epoch.

    Args:
        data: Training data.
        times: float64 (n), the time of each of `data.posts`, in seconds since the epoch.
        config: Sample sizes and rates.
        group: The processes that share the users.
    """

    def __init__(self, data: TrainingSet, times: Tensor, config: SequenceConfig, group: ProcessGroup) -> None:
        self._data = data
        self._times = times
        self._config = config
        self._group = group
        self._drop = drop_probabilities(data.counts, config.drop_rate, config.drop_scale)

    def windows(self, epoch: int) -> Windows:
        """All windows of an epoch, in random order."""
        length, generator = self._config.length, seeded_generator(self._config.seed, epoch, WINDOWS)
        device = self._data.offsets.device
        counts = (self._data.offsets.diff() - 1).clamp(min=0).cpu()  # events that have a next one
        shift = torch.randint(length, (len(counts),), generator=generator)
        shift[counts <= length] = 0  # one window has all of them
        windows = -(-(counts + shift) // length) * (counts > 0)
        users = torch.arange(len(counts)).repeat_interleave(windows)
        first = (windows.cumsum(0) - windows)[users]
        starts = (torch.arange(len(users)) - first) * length - shift[users]
        order = torch.randperm(len(users), generator=generator)
        return Windows(users[order].to(device), starts[order].to(device))

    def step(self, epoch: int, index: int, windows: Windows) -> SequenceSample:
        """Draws the sample of a step; only the windows of this process's users are kept."""
        length, device = self._config.length, windows.users.device
        generator = seeded_generator(self._config.seed, epoch, index)
        offsets = self._data.offsets
        begins = offsets[windows.users]
        counts = offsets[windows.users + 1] - begins
        places = windows.starts[:, None] + torch.arange(1 - length, length + 1, device=device)
        exists = (places >= 0) & (places < counts[:, None])  # (w, 2 · length)
        at = torch.where(exists, begins[:, None] + places, 0)
        posts = self._data.posts[at].long() * exists
        times = self._times[at] * exists
        drawn = sample_negatives(self._data, self._config.negatives, generator)
        rows = touched_rows(drawn, posts.flatten())
        dropped = torch.rand(len(rows), generator=generator).to(device) < self._drop[rows]
        mine = self._group.owns(windows.users)
        found = torch.searchsorted(rows, posts[mine])
        exists = exists[mine]
        return SequenceSample(
            rows=rows,
            dropped=dropped,
            drawn=torch.searchsorted(rows, drawn),
            events=found[:, :-1],
            kinds=exists[:, :-1].long() - 1,
            times=times[mine][:, :-1],
            next_posts=found[:, length:],
            predicted=exists[:, length - 1 : -1] & exists[:, length:],
        )

"""Trains the sequence model: each event is predicted from those before it alone."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animora_training.errors import NotFinite
from animora_training.memory import explain_out_of_memory
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.rowwise_adam import BETAS, RowwiseAdam
from animora_training.modeling.sampling import seeded_generator
from animora_training.modeling.sequence_model import SequenceConfig, SequenceModel
from animora_training.modeling.sequence_sampling import SequenceSample, SequenceSampler, Windows
from animora_training.modeling.trainer import Epoch, Position
from animora_training.modeling.training_set import TrainingSet

MAX_GRADIENT = 5.0  # norm of the gradient of all layers


class SequenceTrainer:
    """Trains a sequence model by sampled softmax (Jean et al. 2015) at every event.

    `epochs` trains; `state` and `restore` are for checkpoints.

    Args:
        data: Training data.
        times: float64 (n), the time of each of `data.posts`, in seconds since the epoch.
        config: The recipe.
        model: The model; changed by training.
        group: The processes that share the work.
    """

    @explain_out_of_memory("Adam's moments of posts", "lower the width of taste vectors")
    def __init__(
        self,
        data: TrainingSet,
        times: Tensor,
        config: SequenceConfig,
        model: SequenceModel,
        group: ProcessGroup,
    ) -> None:
        self._data = data
        self._config = config
        self._group = group
        self._sampler = SequenceSampler(data, times, config, group)
        self._model = model.train()
        self._tastes = RowwiseAdam(model.taste_table)
        self._posts = RowwiseAdam(model.post_table)
        self._parameters = list(model.parameters())
        self._shared = torch.optim.Adam(self._parameters, betas=BETAS, fused=True)
        self.position = Position()

    def epochs(self, between_steps: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
        """Trains without end; yields after each epoch. `pairs` of an epoch counts scored posts of all events.

        Args:
            between_steps: Called after each step; `state` may be read then.

        Raises:
            NotFinite: The loss or a weight is not finite at the end of an epoch, in any process.
            OutOfMemory: A step does not fit into memory.
        """
        at, size = self.position, self._config.windows_per_step
        events = int((self._data.offsets.diff() - 1).clamp(min=0).sum())
        while True:
            windows = self._sampler.windows(at.epoch)
            steps = -(-len(windows.users) // size)
            started = time.monotonic() - at.seconds
            while at.step < steps:
                some = slice(at.step * size, (at.step + 1) * size)
                step = Windows(windows.users[some], windows.starts[some])
                rate = self._rate(at.epoch + at.step / steps)
                self._step(self._sampler.step(at.epoch, at.step, step), len(step.users), rate)
                at.step += 1
                at.seconds = time.monotonic() - started
                between_steps()
            counted = torch.tensor([at.loss, float(at.pairs), self._weight_sum()], dtype=torch.float64)
            self._group.all_reduce([counted])
            loss, pairs, weight = counted.tolist()
            if not math.isfinite(loss + weight):
                raise NotFinite(
                    f"training diverged in epoch {at.epoch + 1}: the loss or the weights are no longer "
                    f"finite numbers. Lower the learning rate ({self._config.learning_rate:g})"
                )
            ended = Epoch(
                at.epoch + 1, loss / max(events, 1), self._rate(at.epoch + 1), int(pairs), at.seconds
            )
            self.position = at = Position(epoch=at.epoch + 1)
            yield ended

    @property
    def model(self) -> SequenceModel:
        """The model so far, for scoring. Training changes it further."""
        return self._model

    def state(self) -> dict[str, Any]:
        """State for a checkpoint; the tensors are not copied."""
        return {
            "position": asdict(self.position),
            "layers": dict(self._model.named_parameters()),
            "shared": self._shared.state_dict(),
            "tastes": self._tastes.state(),
            "posts": self._posts.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state of the same data and configuration."""
        self.position = Position(**state["position"])
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(state["layers"][name])
        self._shared.load_state_dict(state["shared"])
        self._tastes.restore(state["tastes"])
        self._posts.restore(state["posts"])

    @explain_out_of_memory("a training step", "lower the windows or the negatives of a step")
    def _step(self, sample: SequenceSample, windows_in_all: int, rate: float) -> None:
        tables = self._posts.gather(sample.rows), self._tastes.gather(sample.rows)
        with self._seeded():
            loss, predicted = self._loss(sample, *tables)
        for parameter in self._parameters:
            parameter.grad = None
        # All processes divide by the same number: the gradient is that of one process with all windows.
        (loss / (windows_in_all * self._config.length)).backward()  # type: ignore[no-untyped-call]
        gradients = [table.grad if table.grad is not None else torch.zeros_like(table) for table in tables]
        self._group.all_reduce([*(p.grad for p in self._parameters if p.grad is not None), *gradients])
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT)
        for group in self._shared.param_groups:
            group["lr"] = rate
        self._shared.step()
        for table, gradient in zip((self._posts, self._tastes), gradients, strict=True):
            table.step(sample.rows, gradient, torch.full(gradient.shape[1:], rate, device=gradient.device))
        self.position.loss += float(loss.detach())
        self.position.pairs += predicted * (1 + len(sample.drawn))

    def _loss(self, sample: SequenceSample, post_ids: Tensor, taste_ids: Tensor) -> tuple[Tensor, int]:
        """The summed loss of the predicted events, and their number."""
        model, config = self._model, self._config
        image, caption = self._data.image[sample.rows].float(), self._data.caption[sample.rows].float()
        known = ~sample.dropped[:, None]
        posts, tastes = model.vectors(
            torch.where(known, post_ids, post_ids[:1]),
            torch.where(known, taste_ids, taste_ids[:1]),
            image,
            caption,
        )
        # The gradient of an embedding look-up is summed by row, unlike that of indexing.
        events = functional.dropout(functional.embedding(sample.events, tastes), config.dropout)
        encoded = model.encoder(events, sample.kinds, sample.times, config.length)[sample.predicted]
        encoded = functional.dropout(encoded, config.dropout)
        next_posts = sample.next_posts[sample.predicted]
        following = functional.embedding(next_posts, posts)
        drawn = functional.embedding(sample.drawn, posts)
        positive = (encoded * following[:, :-1]).sum(dim=1) + following[:, -1]
        others = torch.addmm(drawn[:, -1], encoded, drawn[:, :-1].T)
        others = others.masked_fill(next_posts[:, None] == sample.drawn, -torch.inf)
        weight = len(self._data.negatives) / max(len(sample.drawn), 1)
        rest = torch.logsumexp(others, dim=1) + math.log(weight)
        return functional.softplus(rest - positive).sum(), len(next_posts)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Draws dropout from the step's seed, so that a resumed training draws the same."""
        device, at = self._posts.table.device, self.position
        generator = seeded_generator(self._config.seed, at.epoch, at.step, 1 + self._group.rank)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed())
            yield

    def _rate(self, epoch: float) -> float:
        """Learning rate at a (fractional) epoch: linear warm-up, then a cosine to zero."""
        config = self._config
        rise = min(1.0, (epoch + 0.01) / (config.warmup_epochs + 0.01))
        done = min(epoch / config.epochs, 1.0)
        return config.learning_rate * rise * (1.0 + math.cos(math.pi * done)) / 2

    def _weight_sum(self) -> float:
        """Sum of all weights; not finite if a weight is not."""
        weights = (self._tastes.table, self._posts.table, *(p.detach() for p in self._parameters))
        return sum(float(one.sum()) for one in weights)

"""The training loop. A step takes users with all of their positives, and shared sampled negatives."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animora_training.errors import NotFinite
from animora_training.memory import explain_out_of_memory
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import Initialization
from animora_training.modeling.losses import LOSSES, StepLogits
from animora_training.modeling.network import NeuCF
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.rowwise_adam import BETAS, RowwiseAdam
from animora_training.modeling.sampling import StepSample, StepSampler, history_weights
from animora_training.modeling.training_set import TrainingSet

# Factors on the learning rate: a bias is one number a row, and the MLP branch starts from random values.
BIAS_RATE, MLP_RATE = 5.0, 3.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch that has ended.

    Attributes:
        number: Number of the epoch, from 1.
        loss: Mean loss per user.
        learning_rate: Learning rate at the end of the epoch.
        pairs: Number of user-post pairs scored, over all processes.
        seconds: Duration.
    """

    number: int
    loss: float
    learning_rate: float
    pairs: int
    seconds: float


@dataclass(slots=True)
class Position:
    """Position in training: finished epochs, steps of the current epoch, and its running sums."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    pairs: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains a network.

    `epochs` trains; `network` returns the network so far, `initialization` the tables from which another
    training can start; `state` and `restore` are for checkpoints.
    """

    @explain_out_of_memory("Adam's moments of users and posts", "lower factors or mlp_embedding by --set")
    def __init__(
        self, data: TrainingSet, config: FitConfig, start: Initialization, group: ProcessGroup
    ) -> None:
        """Prepares the optimizers.

        Args:
            data: Training data.
            config: The recipe.
            start: Initial tables, with the user rows of this process; changed by training.
            group: The processes that share the work.

        Raises:
            ValueError: The number of user rows does not match the data and the process.
            OutOfMemory: Adam's moments do not fit into memory.
        """
        if len(start.network.user_table) != group.row_count(data.users):
            raise ValueError("the start is not of these data, or not this process's share")
        self._data = data
        self._config = config
        self._group = group
        network = start.network
        self._shape = network.shape
        self._loss = LOSSES[config.loss]
        self._device = network.post_table.device
        self._bfloat16 = _uses_bfloat16(config, self._device)
        self._sampler = StepSampler(data, config, group)
        self._network = network
        self._users = RowwiseAdam(network.user_table)
        self._posts = RowwiseAdam(network.post_table)
        self._history = RowwiseAdam(start.history)
        network.user_table = network.user_table.new_empty(0, self._shape.embedding)
        factors, embedding = self._shape.factors, self._shape.embedding
        # Other losses do not depend on a user's bias: Adam would amplify rounding errors.
        user_bias_rate = BIAS_RATE if config.loss == "logistic" else 0.0
        self._post_rates = torch.full((embedding,), MLP_RATE, device=self._device)  # by column
        self._post_rates[:factors], self._post_rates[factors] = 1.0, BIAS_RATE
        self._user_rates = self._post_rates.clone()
        self._user_rates[factors] = user_bias_rate
        mlp = [*network.first.parameters(), *network.tower.parameters(), network.mlp_weight]
        self._groups = (
            (1.0, [*network.gmf_features.parameters()]),
            (user_bias_rate, [network.bias]),
            (MLP_RATE, [*mlp, *network.mlp_features.parameters()]),
        )
        self._shared = torch.optim.Adam(
            [{"params": parameters} for _, parameters in self._groups], betas=BETAS, fused=True
        )
        self.position = Position()

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return self._sampler.steps

    def epochs(self, between_steps: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
        """Trains without end; yields after each epoch.

        The learning rate depends on the epoch alone, so a refit of n epochs repeats the first n epochs of the
        hold-out stage.

        Args:
            between_steps: Called after each step; `state` may be read then.

        Raises:
            NotFinite: The loss or a weight is not finite at the end of an epoch, in any process.
            OutOfMemory: A step does not fit into memory.
        """
        at = self.position
        while True:
            users = _batches(self._sampler.order(at.epoch), self._sampler.users_per_step)
            started = time.monotonic() - at.seconds
            while at.step < len(users):
                rate = learning_rate(self._config, at.epoch + at.step / len(users))
                self._step(self._sampler.step(at.epoch, at.step, users[at.step]), len(users[at.step]), rate)
                at.step += 1
                at.seconds = time.monotonic() - started
                between_steps()
            rate = learning_rate(self._config, at.epoch + 1 - 1 / len(users))
            counted = torch.tensor([at.loss, float(at.pairs), self._weight_sum()], dtype=torch.float64)
            self._group.all_reduce([counted])
            loss, pairs, weight = counted.tolist()
            if not math.isfinite(loss + weight):
                raise NotFinite(self._diverged(at.epoch + 1))
            ended = Epoch(at.epoch + 1, loss / (self._data.users - 1), rate, int(pairs), at.seconds)
            self.position = at = Position(epoch=at.epoch + 1)
            yield ended

    def _weight_sum(self) -> float:
        """Sum of all weights of this process; not finite if a weight is not."""
        tables = (self._users.table, self._posts.table, self._history.table)
        weights = [*tables, *(parameter.detach() for parameter in self._network.parameters())]
        # Not in float64: PyTorch would copy the table to twice its size.
        return sum(float(one.sum()) for one in weights)

    def _diverged(self, epoch: int) -> str:
        config = self._config
        return (
            f"training diverged in epoch {epoch}: the loss or the weights are no longer finite numbers. "
            f"Lower learning_rate ({config.learning_rate:g}), user_learning_rate "
            f"({config.user_learning_rate:g}) or l2 ({config.l2:g}) by --set"
        )

    @explain_out_of_memory(
        "a training step", "lower users_per_step, posts_per_step, hidden, factors or mlp_embedding by --set"
    )
    def _step(self, sample: StepSample, users_in_all: int, rate: float) -> None:
        user_rows = self._group.local_rows(sample.users)
        tables = (
            self._users.gather(user_rows),
            self._posts.gather(sample.rows),
            self._history.gather(sample.rows),
        )
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            loss, penalty = self._losses(sample, *tables)
        for _, parameters in self._groups:
            for parameter in parameters:
                parameter.grad = None
        ((loss + self._config.l2 * penalty) / users_in_all).backward()  # type: ignore[no-untyped-call]
        shared = [parameter for _, parameters in self._groups for parameter in parameters]
        gradients = [table.grad if table.grad is not None else torch.zeros_like(table) for table in tables]
        self._group.all_reduce([*(p.grad for p in shared if p.grad is not None), *gradients[1:]])
        for group, (multiple, _) in zip(self._shared.param_groups, self._groups, strict=True):
            group["lr"] = rate * multiple
        self._shared.step()
        self._users.step(user_rows, gradients[0], rate * self._config.user_learning_rate * self._user_rates)
        self._posts.step(sample.rows, gradients[1], rate * self._post_rates)
        self._history.step(sample.rows, gradients[2], rate * self._user_rates)
        self.position.loss += float(loss.detach())
        self.position.pairs += len(sample.positives) + len(sample.users) * len(sample.drawn)

    def _losses(
        self, sample: StepSample, ids: Tensor, post_ids: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The summed loss of the step's users, and the L2 penalty."""
        network = self._network
        image, caption = self._data.image[sample.rows], self._data.caption[sample.rows]
        features = network.features(image.float(), caption.float())
        posts = torch.where(sample.dropped[:, None], post_ids[:1], post_ids) + features  # (t, embedding)
        users = ids + _sums(history, sample.positives, sample.segments, sample.history, len(ids))
        user_vectors, post_vectors = network.user_vectors(users), network.post_vectors(posts)
        # The gradient of an embedding look-up is summed by row, unlike that of indexing.
        likers = functional.embedding(sample.segments, user_vectors)
        liked = functional.embedding(sample.positives, post_vectors)
        drawn = functional.embedding(sample.drawn, post_vectors)
        weight = len(self._data.negatives) / len(sample.drawn)
        logits = StepLogits(
            positive=network.score_pairs(
                likers, liked, None if sample.kept is None else sample.kept[sample.segments]
            ).float(),
            segments=sample.segments,
            drawn=network.score_all_pairs(user_vectors, drawn, sample.kept).float(),
            accidental_hits=sample.accidental_hits(),
            weight=weight,
            positive_weights=sample.positive_weights,
            noise=sample.noise,
        )
        # The penalty covers all posts once an epoch for each user; the sampled posts represent them here.
        share = weight * len(sample.users) / (self._data.users - 1)
        penalty = self._length(users) + self._length(ids) + share * self._length(posts[sample.drawn])
        return self._loss(logits), penalty

    def _length(self, rows: Tensor) -> Tensor:
        """Sum of the squared lengths of rows (n, embedding), without biases."""
        return (rows * rows).sum() - (rows[:, self._shape.factors] ** 2).sum()

    @torch.no_grad()
    def initialization(self) -> Initialization:
        """Copies tables and layers to the CPU. All processes must call it; only rank zero gets user rows."""
        users = self._group.gather_rows(self._users.table, self._shape.users)
        shared = {**dict(self._network.named_parameters()), "post_table": self._posts.table}
        kept = {name: value.to("cpu", copy=True) for name, value in shared.items()}
        network = NeuCF.holding(self._shape, {**kept, "user_table": users})
        return Initialization(network.eval(), self._history.table.to("cpu", copy=True))

    def network(self) -> NeuCF:
        """Copies the network to the CPU, with histories added to the user rows, see `fold_histories`.

        All processes must call it; only rank zero gets user rows.
        """
        trained = self.initialization()
        return fold_histories(trained, self._data) if self._group.is_rank_zero else trained.network

    def state(self) -> dict[str, Any]:
        """State for a checkpoint; the tensors are not copied."""
        return {
            "position": asdict(self.position),
            "layers": dict(self._network.named_parameters()),
            "shared": self._shared.state_dict(),
            "users": self._users.state(),
            "posts": self._posts.state(),
            "history": self._history.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state of the same data and configuration."""
        self.position = Position(**state["position"])
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                parameter.copy_(state["layers"][name])
        self._shared.load_state_dict(state["shared"])
        for table, name in ((self._users, "users"), (self._posts, "posts"), (self._history, "history")):
            table.restore(state[name])


@torch.no_grad()
def fold_histories(trained: Initialization, data: TrainingSet) -> NeuCF:
    """The network with each user's history sum added to the user's row; on the CPU.

    Args:
        trained: Tables with the rows of all users.
        data: The users' histories.
    """
    rows = trained.network.user_table.clone()
    for piece in data.pieces(torch.arange(1, data.users, device=data.offsets.device)):
        users, posts, lengths = (values.cpu() for values in (piece, *data.histories(piece)))
        segments = torch.arange(len(users)).repeat_interleave(lengths)
        sums = _sums(trained.history, posts, segments, history_weights(lengths)[segments], len(users))
        rows[users] += sums
    values = {**trained.network.state_dict(), "user_table": rows}
    return NeuCF.holding(trained.network.shape, values).eval()


def _uses_bfloat16(config: FitConfig, device: torch.device) -> bool:
    """Whether forward and backward passes use bfloat16 on the device."""
    if config.precision == "auto":
        return device.type == "cuda" and _has_bfloat16(device)
    return config.precision == "bfloat16"


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16; PyTorch emulates it slowly on others, which does not count."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def learning_rate(config: FitConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then linear decay to zero."""
    rise = min(1.0, (epoch + 0.01) / (config.warmup_epochs + 0.01))
    return config.learning_rate * rise * max(0.0, 1.0 - epoch / config.max_epochs)


def _sums(table: Tensor, posts: Tensor, segments: Tensor, weights: Tensor, users: int) -> Tensor:
    """Weighted sums (users, width) of table rows at posts int64 (p), by ascending segment int64 (p)."""
    offsets = torch.searchsorted(segments, torch.arange(users, device=posts.device))
    sums: Tensor = functional.embedding_bag(posts, table, offsets, mode="sum", per_sample_weights=weights)
    return sums


def _batches(users: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(users, size))

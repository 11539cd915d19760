"""The training loop: users with all they like, beside posts that all of them share as negatives."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animora_training.errors import NotFinite
from animora_training.memory import memory_for
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import Initialization
from animora_training.modeling.losses import LOSSES, StepLogits
from animora_training.modeling.network import NeuCF
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.rowwise_adam import BETAS, RowwiseAdam
from animora_training.modeling.sampling import StepSample, StepSampler, history_weights
from animora_training.modeling.training_set import TrainingSet

# Learning rates as multiples: biases are one number a row, and the MLP branch starts from chance.
BIAS_RATE, MLP_RATE = 5.0, 3.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch that has ended.

    Attributes:
        number: From 1.
        loss: Its mean loss a user.
        learning_rate: At its end.
        pairs: User-post pairs that were scored in it, over all processes.
        seconds: How long it took.
    """

    number: int
    loss: float
    learning_rate: float
    pairs: int
    seconds: float


@dataclass(slots=True)
class Position:
    """Where training is: epochs that have ended, steps of the next one, and what is counted of it."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    pairs: int = 0
    seconds: float = 0.0


class Trainer:
    """A network in training.

    `epochs` trains; `network` gives what has been learnt so far, `learnt` what training on other data can go
    on from; `state` and `restore` go on elsewhere.
    """

    @memory_for("Adam's moments of users and posts", "lower factors or mlp_embedding by --set")
    def __init__(
        self, data: TrainingSet, config: FitConfig, start: Initialization, ranks: ProcessGroup
    ) -> None:
        """Goes on from a start.

        Args:
            data: What to learn.
            config: How.
            start: With the user rows of this process; changed in training.
            ranks: The processes that share the work.

        Raises:
            ValueError: The start has the rows of other users.
            OutOfMemory: There is no memory for Adam's moments.
        """
        if len(start.network.user_table) != ranks.rows(data.users):
            raise ValueError("the start is not of these data, or not this process's share")
        self._data = data
        self._config = config
        self._ranks = ranks
        network = start.network
        self._shape = network.shape
        self._loss = LOSSES[config.loss]
        self._device = network.post_table.device
        self._half = _halves(config, self._device)
        self._drawing = StepSampler(data, config, ranks)
        self._network = network
        self._users = RowwiseAdam(network.user_table)
        self._posts = RowwiseAdam(network.post_table)
        self._history = RowwiseAdam(start.history)
        network.user_table = network.user_table.new_empty(0, self._shape.embedding)
        factors, embedding = self._shape.factors, self._shape.embedding
        # Other losses are the same whatever is added to a user's logits: Adam would follow rounding errors.
        user_bias_rate = BIAS_RATE if config.loss == "logistic" else 0.0
        self._post_rates = torch.full((embedding,), MLP_RATE, device=self._device)  # one a column
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
        """Steps of an epoch."""
        return self._drawing.steps

    def epochs(self, between_steps: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
        """Trains epoch by epoch for as long as it is asked to.

        The learning rate depends on the epoch and not on when training ends, so that a refit for n epochs
        repeats the n epochs that were judged.

        Args:
            between_steps: Called when a step has ended; `state` may be taken then.

        Raises:
            NotFinite: After an epoch its loss, or what it has learnt, is no longer finite, in any process.
            OutOfMemory: There is no memory for a step.
        """
        at = self.position
        while True:
            users = _batches(self._drawing.order(at.epoch), self._drawing.users_per_step)
            started = time.monotonic() - at.seconds
            while at.step < len(users):
                rate = learning_rate(self._config, at.epoch + at.step / len(users))
                self._step(self._drawing.step(at.epoch, at.step, users[at.step]), len(users[at.step]), rate)
                at.step += 1
                at.seconds = time.monotonic() - started
                between_steps()
            rate = learning_rate(self._config, at.epoch + 1 - 1 / len(users))
            counted = torch.tensor([at.loss, float(at.pairs), self._weight()], dtype=torch.float64)
            self._ranks.sum([counted])
            loss, pairs, weight = counted.tolist()
            if not math.isfinite(loss + weight):
                raise NotFinite(self._diverged(at.epoch + 1))
            ended = Epoch(at.epoch + 1, loss / (self._data.users - 1), rate, int(pairs), at.seconds)
            self.position = at = Position(epoch=at.epoch + 1)
            yield ended

    def _weight(self) -> float:
        """The sum of all weights of this process: not finite where one of them is not."""
        tables = (self._users.table, self._posts.table, self._history.table)
        weights = [*tables, *(parameter.detach() for parameter in self._network.parameters())]
        # Not in float64: PyTorch would make a copy of the table for that, twice as large.
        return sum(float(one.sum()) for one in weights)

    def _diverged(self, epoch: int) -> str:
        config = self._config
        return (
            f"training diverged in epoch {epoch}: the loss or the weights are no longer finite numbers. "
            f"Lower learning_rate ({config.learning_rate:g}), user_learning_rate "
            f"({config.user_learning_rate:g}) or l2 ({config.l2:g}) by --set"
        )

    @memory_for(
        "a training step", "lower users_per_step, posts_per_step, hidden, factors or mlp_embedding by --set"
    )
    def _step(self, draw: StepSample, users_in_all: int, rate: float) -> None:
        user_rows = self._ranks.local(draw.users)
        tables = (self._users.leaf(user_rows), self._posts.leaf(draw.rows), self._history.leaf(draw.rows))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            loss, penalty = self._losses(draw, *tables)
        for _, parameters in self._groups:
            for parameter in parameters:
                parameter.grad = None
        ((loss + self._config.l2 * penalty) / users_in_all).backward()  # type: ignore[no-untyped-call]
        shared = [parameter for _, parameters in self._groups for parameter in parameters]
        gradients = [table.grad if table.grad is not None else torch.zeros_like(table) for table in tables]
        self._ranks.sum([*(p.grad for p in shared if p.grad is not None), *gradients[1:]])
        for group, (multiple, _) in zip(self._shared.param_groups, self._groups, strict=True):
            group["lr"] = rate * multiple
        self._shared.step()
        self._users.step(user_rows, gradients[0], rate * self._config.user_learning_rate * self._user_rates)
        self._posts.step(draw.rows, gradients[1], rate * self._post_rates)
        self._history.step(draw.rows, gradients[2], rate * self._user_rates)
        self.position.loss += float(loss.detach())
        self.position.pairs += len(draw.positives) + len(draw.users) * len(draw.drawn)

    def _losses(
        self, draw: StepSample, ids: Tensor, post_ids: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The summed loss of the step's users, and the squared lengths to be kept small."""
        network = self._network
        image, caption = self._data.image[draw.rows], self._data.caption[draw.rows]
        features = network.features(image.float(), caption.float())
        posts = torch.where(draw.dropped[:, None], post_ids[:1], post_ids) + features  # (t, embedding)
        users = ids + _sums(history, draw.positives, draw.segments, draw.history, len(ids))
        user_vectors, post_vectors = network.user_vectors(users), network.post_vectors(posts)
        # The gradient of an embedding is summed by row, that of an index one by one.
        likers = functional.embedding(draw.segments, user_vectors)
        liked = functional.embedding(draw.positives, post_vectors)
        drawn = functional.embedding(draw.drawn, post_vectors)
        weight = len(self._data.negatives) / len(draw.drawn)
        logits = StepLogits(
            positive=network.score_pairs(
                likers, liked, None if draw.kept is None else draw.kept[draw.segments]
            ).float(),
            segments=draw.segments,
            drawn=network.score_all_pairs(user_vectors, drawn, draw.kept).float(),
            taken=draw.taken(),
            weight=weight,
            represents=draw.represents,
            luck=draw.luck,
        )
        # All posts are to be kept short once an epoch for each user, the drawn ones stand for them here.
        share = weight * len(draw.users) / (self._data.users - 1)
        penalty = self._length(users) + self._length(ids) + share * self._length(posts[draw.drawn])
        return self._loss(logits), penalty

    def _length(self, rows: Tensor) -> Tensor:
        """The squared length of rows (n, embedding), biases left out, summed."""
        return (rows * rows).sum() - (rows[:, self._shape.factors] ** 2).sum()

    @torch.no_grad()
    def learnt(self) -> Initialization:
        """What has been learnt so far; a copy on the CPU.

        All processes take part; only the first one's has rows for users.
        """
        users = self._ranks.whole(self._users.table, self._shape.users)
        shared = {**dict(self._network.named_parameters()), "post_table": self._posts.table}
        kept = {name: value.to("cpu", copy=True) for name, value in shared.items()}
        network = NeuCF.holding(self._shape, {**kept, "user_table": users})
        return Initialization(network.eval(), self._history.table.to("cpu", copy=True))

    def network(self) -> NeuCF:
        """What has been learnt so far, see `settled`; a copy on the CPU.

        All processes take part; only the first one's has rows for users.
        """
        learnt = self.learnt()
        return settled(learnt, self._data) if self._ranks.first else learnt.network

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on; the tensors are this trainer's own."""
        return {
            "position": asdict(self.position),
            "layers": dict(self._network.named_parameters()),
            "shared": self._shared.state_dict(),
            "users": self._users.state(),
            "posts": self._posts.state(),
            "history": self._history.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of the same data and configuration."""
        self.position = Position(**state["position"])
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                parameter.copy_(state["layers"][name])
        self._shared.load_state_dict(state["shared"])
        for table, name in ((self._users, "users"), (self._posts, "posts"), (self._history, "history")):
            table.restore(state[name])


@torch.no_grad()
def settled(learnt: Initialization, data: TrainingSet) -> NeuCF:
    """The network with the users' histories added to their rows; on the CPU.

    Args:
        learnt: With the rows of all users.
        data: Whose histories.
    """
    rows = learnt.network.user_table.clone()
    for piece in data.pieces(torch.arange(1, data.users, device=data.offsets.device)):
        users, posts, lengths = (values.cpu() for values in (piece, *data.histories(piece)))
        segments = torch.arange(len(users)).repeat_interleave(lengths)
        sums = _sums(learnt.history, posts, segments, history_weights(lengths)[segments], len(users))
        rows[users] += sums
    values = {**learnt.network.state_dict(), "user_table": rows}
    return NeuCF.holding(learnt.network.shape, values).eval()


def _halves(config: FitConfig, device: torch.device) -> bool:
    """Whether a recipe's passes over a device are in bfloat16."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def learning_rate(config: FitConfig, epoch: float) -> float:
    """The learning rate after so many epochs: a linear fall to zero, at first damped by a linear rise."""
    rise = min(1.0, (epoch + 0.01) / (config.warmup_epochs + 0.01))
    return config.learning_rate * rise * max(0.0, 1.0 - epoch / config.max_epochs)


def _sums(table: Tensor, posts: Tensor, segments: Tensor, weights: Tensor, users: int) -> Tensor:
    """Weighted sums (users, width) of a table's rows at posts int64 (p), by segment int64 (p), ascending."""
    offsets = torch.searchsorted(segments, torch.arange(users, device=posts.device))
    sums: Tensor = functional.embedding_bag(posts, table, offsets, mode="sum", per_sample_weights=weights)
    return sums


def _batches(users: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(users, size))

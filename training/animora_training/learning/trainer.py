"""The training loop: log loss on positives and sampled negatives, one epoch at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from animora_training.learning.config import FitConfig
from animora_training.learning.network import NetworkShape, NeuCF
from animora_training.learning.sampling import NegativeSampler, drop_probabilities, pairs_of
from animora_training.learning.training_set import TrainingSet

# With fewer steps an epoch, a small data set would be hardly learnt from when the learning rate is zero.
MIN_STEPS, MIN_BATCH = 32, 32


@dataclass(frozen=True, slots=True)
class Epoch:
    """The state after an epoch.

    Attributes:
        number: From 1.
        loss: Mean log loss over its pairs.
        network: The network, still being trained: score with it before asking for the next epoch.
    """

    number: int
    loss: float
    network: NeuCF


def epochs(data: TrainingSet, config: FitConfig) -> Iterator[Epoch]:
    """Trains epoch by epoch for as long as it is asked to.

    The learning rate depends on the epoch and not on when training ends, so that a refit for n epochs
    repeats the n epochs that were judged.
    """
    generator = torch.Generator().manual_seed(config.seed)
    network = new_network(data, config)
    # What tells posts and users apart is decayed; the layers that all of them share are not.
    vectors = network.vector_parameters()
    shared = [parameter for parameter in network.parameters() if not any(parameter is one for one in vectors)]
    # Dense on purpose: a batch touches most rows, and the fused step over all costs less than sparse updates.
    optimizer = torch.optim.AdamW(
        [{"params": vectors, "weight_decay": config.weight_decay}, {"params": shared, "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=True,
    )
    step = TrainingStep(data, network, config, generator)
    batch_positives = min(config.batch_positives, max(len(data.users) // MIN_STEPS, MIN_BATCH))
    steps = math.ceil(len(data.users) / batch_positives)
    number = 0
    while True:
        order = torch.randperm(len(data.users), generator=generator)
        losses = []
        for index, batch in enumerate(torch.split(order, batch_positives)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, number + index / steps)
            loss = step.loss(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach() * len(batch))
        number += 1
        yield Epoch(number, float(torch.stack(losses).sum()) / len(data.users), network)


def new_network(data: TrainingSet, config: FitConfig) -> NeuCF:
    """An untrained network for the data, initialised by the seed."""
    shape = NetworkShape(
        users=len(data.vocabulary.user_ids) + 1,
        posts=len(data.vocabulary.post_ids) + 1,
        factors=config.factors,
        mlp_embedding=config.mlp_embedding,
        hidden=config.hidden,
        feature_width=config.feature_width,
        image=data.image.shape[1],
        caption=data.caption.shape[1],
        image_scale=_unit_scale(data.image),
        caption_scale=_unit_scale(data.caption),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return NeuCF(shape)


def _unit_scale(embeddings: Tensor) -> float:
    """One over the mean length of the embeddings (n, d) that are there; 1 where none is."""
    lengths = torch.linalg.vector_norm(embeddings, dim=1)
    present = lengths[lengths > 0]
    return 1.0 / float(present.mean()) if len(present) else 1.0


def learning_rate(config: FitConfig, epoch: float) -> float:
    """The learning rate after so many epochs: a linear fall to zero, at first damped by a linear rise."""
    rise = min(1.0, (epoch + 0.01) / (config.warmup_epochs + 0.01))
    return config.learning_rate * rise * max(0.0, 1.0 - epoch / config.max_epochs)


class TrainingStep:
    """The loss of a batch, computed with as little work as its distinct posts allow."""

    def __init__(
        self, data: TrainingSet, network: NeuCF, config: FitConfig, generator: torch.Generator
    ) -> None:
        self._data = data
        self._network = network
        self._negatives = config.negatives
        self._generator = generator
        positive = pairs_of(data.users, data.posts, (network.shape.users, network.shape.posts))
        self._sampler = NegativeSampler(positive, data.negatives, generator)
        self._drop = drop_probabilities(data.counts, config.drop_rate, config.drop_scale)
        self._all_posts = torch.arange(len(data.counts))

    def loss(self, batch: Tensor) -> Tensor:
        """Mean log loss over the positives at batch int64 (b) and as many times `negatives` sampled pairs."""
        users = self._data.users[batch]
        table, index = self._post_table(*self.draw(batch))
        vectors = functional.embedding(index, table)  # (b, 1 + negatives, d)
        logits = self._network.meet(self._network.user_vectors(users)[:, None], vectors)
        wanted = torch.zeros_like(logits)
        wanted[:, 0] = 1.0
        return functional.binary_cross_entropy_with_logits(logits, wanted)

    def draw(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Post rows int64 (b, 1 + negatives), the positive first, and where their ids are dropped, bool."""
        positives, users = self._data.posts[batch], self._data.users[batch]
        posts = torch.cat((positives[:, None], self._sampler.draw(users, self._negatives)), dim=1)
        return posts, torch.rand(posts.shape, generator=self._generator) < self._drop[posts]

    def _post_table(self, posts: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Post vectors (2n, d), n with their ids and n without, and the row int64 of each of posts in them.

        Each distinct post goes through the projections once. In a small catalog nearly all are in every
        batch, and looking for the distinct ones would cost more than it saves.
        """
        if len(self._all_posts) <= posts.numel():
            rows, index = self._all_posts, posts
            image, caption = self._data.image, self._data.caption
        else:
            rows, index = torch.unique(posts, return_inverse=True)
            image, caption = self._data.image[rows], self._data.caption[rows]
        features = self._network.post_feature_vectors(image, caption)
        with_id = self._network.post_id_vectors(rows) + features
        without_id = self._network.post_id_vectors(self._all_posts[:1]) + features
        return torch.cat((with_id, without_id)), index + dropped * len(rows)

"""Matrix factorisation: iALS as the library `implicit` does it, and MF by the log loss of all pairs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import embedding_bag, softplus

from animora_training.evaluation.recipe import Choice
from animora_training.evaluation.recommender import Factors

ALS_FACTORS = 192
ALS_ITERATIONS = 16

BETAS = (0.9, 0.99)
START_STD = 0.01
# Sampling weight of a post without likes, as a multiple of the mean number of likes.
LEAST_SHARE = 0.25
USERS_AT_ONCE = 1 << 12  # in a step at most: their logits of all its posts are in memory
SINGLE_THREAD_BELOW = 1 << 21  # logits of a step; below, one thread is faster than several


@dataclass(frozen=True, slots=True)
class LogisticConfig:
    """Training settings of MF, the same for every data set.

    Attributes:
        factors: Number of factors, without biases.
        epochs: Number of epochs; the learning rate rises over the first one and falls to zero.
        steps: Steps an epoch, the same for small and large data sets.
        learning_rate: Peak learning rate of Adam.
        whole: Largest catalog of which a step uses all posts.
        drawn: Mean number of posts that a step samples from a larger catalog.
    """

    factors: int = 128
    epochs: int = 30
    steps: int = 24
    learning_rate: float = 0.01
    whole: int = 8192
    drawn: int = 4096


LOGISTIC = LogisticConfig()


def fit_ials(histories: csr_matrix, choice: Choice, seed: int) -> Factors:
    """Implicit alternating least squares (Hu, Koren and Volinsky, ICDM 2008), by conjugate gradients.

    Args:
        histories: float32 (u, p).
        choice: alpha, the extra weight of a like, and l2, as a multiple of the weight of an
            average user's likes: what is best then differs little between data sets and weights.
        seed: Seed of the initial factors.
    """
    # implicit and BLAS would each start a thread a core.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=ALS_FACTORS,
            regularization=choice["l2"] * choice["alpha"] * histories.nnz / histories.shape[0],
            alpha=choice["alpha"],
            iterations=ALS_ITERATIONS,
            random_state=seed,
        )
        model.fit(histories, show_progress=False)
    return Factors(np.asarray(model.user_factors), np.asarray(model.item_factors))


def fit_logistic(
    histories: csr_matrix, choice: Choice, seed: int, config: LogisticConfig = LOGISTIC
) -> Factors:
    """MF with biases, trained by the log loss of all pairs of users and posts; scores are log odds.

    Logistic matrix factorisation (Johnson 2014) with equal weights over all pairs: the loss is the sum of
    softplus(s) over all pairs, minus the sum of s over the likes, plus l2 times the squared lengths of all
    factors. A step takes some users with all posts. From a large catalog it samples posts, popular ones with
    a higher probability, and weighs each by the inverse of its probability (Horvitz and Thompson 1952).

    Args:
        histories: float32 (u, p), 1 where a user liked a post.
        choice: l2.
        seed: Seed of the initial factors, the order of users and the sampled posts.
        config: Training settings.
    """
    chance = torch.Generator().manual_seed(seed)
    known = torch.from_numpy(np.flatnonzero(np.diff(histories.indptr)))  # int64 (n), users with a history
    users, posts = _start(histories, len(known), config, chance)
    shares = _shares(histories, config)
    adam = torch.optim.Adam([users, posts], betas=BETAS, fused=True)
    size = min(-(-len(known) // config.steps), USERS_AT_ONCE)
    with _threads(1 if size * float(shares.sum()) < SINGLE_THREAD_BELOW else torch.get_num_threads()):
        for epoch in range(config.epochs if size else 0):
            batches = torch.split(known[torch.randperm(len(known), generator=chance)], size)
            for step, batch in enumerate(batches):
                rise = min(1.0, epoch + (step + 1) / len(batches))
                fall = 1.0 - (epoch + step / len(batches)) / config.epochs
                adam.param_groups[0]["lr"] = config.learning_rate * rise * fall
                drawn = torch.nonzero(torch.rand(len(shares), generator=chance) < shares).squeeze(1)
                own = users.index_select(0, batch)
                loss = _loss(own, posts, histories[batch.numpy()], drawn, 1 / shares[drawn]) / len(batch)
                lengths = _length(own) / len(batch) + _length(posts) / len(known)
                adam.zero_grad()
                (loss + choice["l2"] * lengths).backward()  # type: ignore[no-untyped-call]
                adam.step()
    # Append a column of ones for the bias of the other side.
    return Factors(
        np.insert(users.detach().numpy(), config.factors + 1, 1.0, axis=1),
        np.insert(posts.detach().numpy(), config.factors, 1.0, axis=1),
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sets PyTorch's number of threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start(
    histories: csr_matrix, known: int, config: LogisticConfig, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Initial users float32 (u, factors + 1) and posts (p, factors + 1); the last column is the bias."""
    users, posts = (
        torch.randn(count, config.factors + 1, generator=chance) * START_STD for count in histories.shape
    )
    likes = _likes(histories)
    users[:, -1] = 0.0
    posts[:, -1] = torch.log((likes + 0.5) / (known - likes + 0.5))
    return users.requires_grad_(), posts.requires_grad_()


def _shares(histories: csr_matrix, config: LogisticConfig) -> Tensor:
    """Probability that a step samples each post, float32 (p)."""
    likes = _likes(histories)
    if len(likes) <= config.whole:
        return torch.ones(len(likes))
    weights = likes + LEAST_SHARE * likes.mean()
    return torch.clamp(config.drawn * weights / weights.sum(), max=1.0)


def _loss(own: Tensor, posts: Tensor, liked: csr_matrix, drawn: Tensor, weights: Tensor) -> Tensor:
    """The log loss of some users (b, d + 1) with all posts (p, d + 1), summed.

    Args:
        own: Vectors of the users.
        posts: Vectors of all posts.
        liked: float32 (b, p), the users' histories.
        drawn: int64 (m), the sampled posts.
        weights: float32 (m), number of posts that each sampled post represents.
    """
    others = posts.index_select(0, drawn)
    logits = torch.addmm(own[:, -1:] + others[:, -1], own[:, :-1], others[:, :-1].T)  # (b, m)
    # The sum of a user's logits over the history is the product with the sum of these posts.
    indices, offsets = torch.from_numpy(liked.indices), torch.from_numpy(liked.indptr[:-1])
    sums = embedding_bag(indices, posts, offsets, mode="sum")  # (b, d + 1)
    lengths = torch.from_numpy(np.diff(liked.indptr))
    of_liked = (own[:, :-1] * sums[:, :-1]).sum() + (own[:, -1] * lengths).sum() + sums[:, -1].sum()
    loss: Tensor = (softplus(logits) @ weights).sum() - of_liked
    return loss


def _length(rows: Tensor) -> Tensor:
    """Sum of the squared lengths of rows (n, d + 1), without biases."""
    return rows[:, :-1].square().sum()


def _likes(histories: csr_matrix) -> Tensor:
    """Number of users who like each post, float32 (p)."""
    return torch.from_numpy(np.bincount(histories.indices, minlength=histories.shape[1])).float()

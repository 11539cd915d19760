"""Training data in the model's own rows: which user and post has which row of its tables."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from animora_artifact import Vocabulary
from animora_training.data.dataset import Dataset, FloatArray, Interactions
from animora_training.errors import NothingToLearn


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Positive pairs and the posts' inputs, by row; row 0 is the unknown user or post.

    Attributes:
        vocabulary: Id → row.
        users: int64 (n), the user's row of each positive pair.
        posts: int64 (n), the post's row of each positive pair.
        negatives: int64 (r), rows of posts that may be drawn as negatives: the live ones.
        counts: int64 (post rows), positive pairs of each post.
        image: float32 (post rows, image width), zeros where absent and in row 0.
        caption: float32 (post rows, caption width), zeros where absent and in row 0.
    """

    vocabulary: Vocabulary
    users: Tensor
    posts: Tensor
    negatives: Tensor
    counts: Tensor
    image: Tensor
    caption: Tensor


def training_set(dataset: Dataset, pairs: Interactions) -> TrainingSet:
    """Gives a row to every user and post that occurs in the pairs.

    Posts without a pair get no row: drawn as negatives they would only ever be disliked.

    Raises:
        NothingToLearn: There are no pairs, or no live post among them.
    """
    users, posts = np.unique(pairs.users), np.unique(pairs.posts)  # indices, ascending
    vocabulary = Vocabulary(user_ids=dataset.user_ids[users], post_ids=dataset.posts.ids[posts])
    live = 1 + np.flatnonzero(~dataset.posts.deleted[posts])
    if not len(live):
        raise NothingToLearn(
            "there are no likes or comments on live posts to learn from: import some, or check that "
            "animora.interactions names ids of animora.users and animora.posts"
        )
    post_rows = 1 + np.searchsorted(posts, pairs.posts)
    return TrainingSet(
        vocabulary=vocabulary,
        users=torch.from_numpy(1 + np.searchsorted(users, pairs.users)),
        posts=torch.from_numpy(post_rows),
        negatives=torch.from_numpy(live),
        counts=torch.from_numpy(np.bincount(post_rows, minlength=len(posts) + 1)),
        image=_below_unknown(dataset.posts.image[posts]),
        caption=_below_unknown(dataset.posts.caption[posts]),
    )


def _below_unknown(embeddings: FloatArray) -> Tensor:
    """Embeddings (n, d) below a row of zeros."""
    unknown = np.zeros((1, embeddings.shape[1]), np.float32)
    return torch.from_numpy(np.concatenate((unknown, embeddings)))

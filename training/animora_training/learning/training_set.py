"""Training data in the model's own rows: which user and post has which row of its tables."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from animora_artifact import Vocabulary
from animora_training.data.dataset import Dataset, Embeddings, Interactions
from animora_training.errors import NothingToLearn


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Positive pairs by user and the posts' inputs, by row; row 0 is the unknown user or post.

    Attributes:
        vocabulary: Id → row.
        offsets: int64 (user rows + 1): a user row's positives are `posts[offsets[row] : offsets[row + 1]]`.
        posts: int32 (n), the post rows of all positives, ascending within a user.
        negatives: int64 (r), rows of posts that may be drawn as negatives: the live ones.
        counts: int64 (post rows), positives of each post.
        image: floating (post rows, image width), zeros where absent and in row 0.
        caption: floating (post rows, caption width), zeros where absent and in row 0.
    """

    vocabulary: Vocabulary
    offsets: Tensor
    posts: Tensor
    negatives: Tensor
    counts: Tensor
    image: Tensor
    caption: Tensor

    @property
    def users(self) -> int:
        """Rows of the user table."""
        return len(self.offsets) - 1

    def to(self, device: torch.device) -> "TrainingSet":
        """The same on a device; memory-mapped arrays stay where they are if that is the CPU."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("offsets", "posts", "negatives", "counts", "image", "caption")
        }
        return replace(self, **moved)

    def histories(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Positives of user rows int64 (b): post rows int64 (p), and how many each user has, int64 (b)."""
        starts = self.offsets[users]
        lengths = self.offsets[users + 1] - starts
        ends = lengths.cumsum(0)
        within = torch.arange(int(lengths.sum()), device=users.device) - (ends - lengths).repeat_interleave(
            lengths
        )
        return self.posts[starts.repeat_interleave(lengths) + within].long(), lengths


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
    user_rows = 1 + np.searchsorted(users, pairs.users)
    post_rows = 1 + np.searchsorted(posts, pairs.posts)
    order = np.lexsort((post_rows, user_rows))
    counts = np.bincount(user_rows, minlength=len(users) + 1)
    return TrainingSet(
        vocabulary=vocabulary,
        offsets=torch.from_numpy(np.concatenate(([0], np.cumsum(counts)))),
        posts=torch.from_numpy(post_rows[order].astype(np.int32)),
        negatives=torch.from_numpy(live),
        counts=torch.from_numpy(np.bincount(post_rows, minlength=len(posts) + 1)),
        image=_below_unknown(dataset.posts.image[posts]),
        caption=_below_unknown(dataset.posts.caption[posts]),
    )


def _below_unknown(embeddings: Embeddings) -> Tensor:
    """Embeddings (n, d) below a row of zeros."""
    unknown = np.zeros((1, embeddings.shape[1]), np.float16)
    return torch.from_numpy(np.concatenate((unknown, embeddings)))

"""Training data by table row: assigns users and posts to rows, with positives and embeddings."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from animora_artifact import Vocabulary
from animora_training.data.arrays import Array, ArrayFile, map_array, prepare_folder
from animora_training.data.clock import now_of
from animora_training.data.dataset import Dataset, Embeddings, IntArray, Rows, offsets_of
from animora_training.errors import NotFinite, NothingToLearn

FILES = ("training_posts.npy", "training_image.npy", "training_caption.npy")
TIMES_FILE = "training_times.npy"
# Seconds after which a post without likes may be sampled as a negative.
MIN_NEGATIVE_AGE = 7 * 86_400.0
EMBEDDINGS_AT_ONCE = 1 << 12
POSITIVES_AT_ONCE = 1 << 18


class TrainingPairs(Protocol):
    """Distinct pairs to train on."""

    def chunks(self) -> Iterator[Rows]:
        """All pairs, ordered by user, then by time, in chunks of whole users."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Positives of each user, and the posts' embeddings, by row; row 0 is the unknown user or post.

    `posts`, `image` and `caption` may be memory-mapped and are read-only.

    Attributes:
        vocabulary: Id → row.
        offsets: int64 (user rows + 1): positives of a user row are `posts[offsets[row] : offsets[row + 1]]`.
        posts: int32 (n), the post rows of all positives, by time within a user.
        negatives: int64 (r), rows of live posts, which may be sampled as negatives.
        counts: int64 (post rows), positives of each post.
        image: float16 (post rows, image width), zeros where absent and in row 0.
        caption: float16 (post rows, caption width), zeros where absent and in row 0.
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
        """Number of rows of the user table."""
        return len(self.offsets) - 1

    def to(self, device: torch.device) -> "TrainingSet":
        """The training set on a device; on the CPU, memory-mapped arrays stay mapped."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("offsets", "posts", "negatives", "counts", "image", "caption")
        }
        return replace(self, **moved)

    def pieces(self, users: Tensor) -> tuple[Tensor, ...]:
        """Splits user rows int64 (b) into chunks of about POSITIVES_AT_ONCE positives."""
        ends = (self.offsets[users + 1] - self.offsets[users]).cumsum(0)
        _, lengths = torch.unique_consecutive(ends // POSITIVES_AT_ONCE, return_counts=True)
        return torch.split(users, lengths.tolist())

    def histories(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Positives of user rows int64 (b): post rows int64 (p), and each user's count, int64 (b)."""
        starts = self.offsets[users]
        lengths = self.offsets[users + 1] - starts
        ends = lengths.cumsum(0)
        within = torch.arange(int(lengths.sum()), device=users.device) - (ends - lengths).repeat_interleave(
            lengths
        )
        return self.posts[starts.repeat_interleave(lengths) + within].long(), lengths


def training_set(dataset: Dataset, pairs: TrainingPairs, folder: Path | None = None) -> TrainingSet:
    """Assigns a row to every user and post of the pairs, and to old posts without likes.

    A live post without likes gets a row, and is sampled as a negative, if it existed for MIN_NEGATIVE_AGE
    before the last pair. A newer one gets none: it is scored as an unknown post, by its embeddings. The pairs
    are read twice; with a folder they are never in memory as a whole.

    Args:
        dataset: Users and posts.
        pairs: Pairs to train on.
        folder: Folder for memory-mapped arrays; None keeps them in memory.

    Raises:
        NothingToLearn: There are no pairs on live posts.
        NotFinite: An embedding of a post with a row is not finite.
        CannotWrite: The disk is full, or the folder is not writable.
    """
    positives = np.zeros(len(dataset.user_ids), np.int64)
    counts = np.zeros(len(dataset.posts.ids), np.int64)
    latest = np.full(len(positives), -math.inf)  # time of each user's latest pair
    for chunk in pairs.chunks():
        np.add.at(positives, chunk.users, 1)
        np.add.at(counts, chunk.posts, 1)
        np.maximum.at(latest, chunk.users, chunk.times)
    live = ~dataset.posts.deleted
    if not (live & (counts > 0)).any():
        raise NothingToLearn(
            "there are no likes or comments on live posts to learn from: import some, or check that "
            "animora.interactions names ids of animora.users and animora.posts"
        )
    now = now_of(latest[positives > 0])
    old_enough = live & (dataset.posts.created <= now - MIN_NEGATIVE_AGE)
    users, posts = np.flatnonzero(positives), np.flatnonzero((counts > 0) | old_enough)  # indices, ascending
    row_of = np.zeros(len(counts), np.int32)
    row_of[posts] = np.arange(1, len(posts) + 1)
    arrays = _ArrayStore(folder, FILES)
    rows_by_user = (row_of[chunk.posts] for chunk in pairs.chunks())
    by_user = arrays.store("posts", rows_by_user, (int(counts.sum()),), np.int32)
    image, caption = (
        arrays.store(
            name, _embedding_rows(name, dataset, rows, posts), (1 + len(posts), rows.shape[1]), np.float16
        )
        for name, rows in (("image", dataset.posts.image), ("caption", dataset.posts.caption))
    )
    return TrainingSet(
        vocabulary=Vocabulary(user_ids=dataset.user_ids[users], post_ids=dataset.posts.ids[posts]),
        offsets=torch.from_numpy(offsets_of(np.append(0, positives[users]))),
        posts=by_user,
        negatives=torch.from_numpy(1 + np.flatnonzero(live[posts])),
        counts=torch.from_numpy(np.append(0, counts[posts])),
        image=image,
        caption=caption,
    )


def times_of(pairs: TrainingPairs, folder: Path | None = None) -> Tensor:
    """Times float64 (n) of all pairs, in seconds since the epoch, in the order of `TrainingSet.posts`.

    Args:
        pairs: The pairs of the training set.
        folder: Folder for a memory-mapped array; None keeps it in memory.

    Raises:
        CannotWrite: The disk is full, or the folder is not writable.
    """
    length = sum(len(chunk) for chunk in pairs.chunks())
    store = _ArrayStore(folder, (TIMES_FILE,))
    return store.store("times", (chunk.times for chunk in pairs.chunks()), (length,), np.float64)


class _ArrayStore:
    """Stores arrays that are produced in chunks: in memory-mapped files of a folder, or in memory."""

    def __init__(self, folder: Path | None, files: Sequence[str]) -> None:
        self._folder = folder
        if folder is not None:
            prepare_folder(folder, files)

    def store(
        self, name: str, pieces: Iterable[Array], shape: tuple[int, ...], dtype: npt.DTypeLike
    ) -> Tensor:
        """Stores an array of the given shape from chunks of its rows."""
        if self._folder is None:
            array, start = np.empty(shape, dtype), 0
            for piece in pieces:
                array[start : start + len(piece)] = piece
                start += len(piece)
            return torch.from_numpy(array)
        path = self._folder / f"training_{name}.npy"
        with ArrayFile(path, dtype, shape[1:]) as file:
            for piece in pieces:
                file.append(piece)
        with warnings.catch_warnings():
            # PyTorch warns about read-only arrays; the tensors are never written to.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return torch.from_numpy(map_array(path))


def _embedding_rows(
    name: str, dataset: Dataset, embeddings: Embeddings, posts: IntArray
) -> Iterator[Embeddings]:
    """A row of zeros for the unknown post, then the embeddings of posts (indices), in chunks."""
    yield np.zeros((1, embeddings.shape[1]), np.float16)
    for start in range(0, len(posts), EMBEDDINGS_AT_ONCE):
        some = posts[start : start + EMBEDDINGS_AT_ONCE]
        piece = embeddings[some]
        finite = np.isfinite(piece).all(axis=1)
        if not finite.all():
            post = dataset.posts.ids[some[~finite][0]]
            raise NotFinite(
                f"the {name} embedding of post {post} is not finite: float16 ends at 65,504. Scale the "
                "embeddings down, or give zeros for those that are absent"
            )
        yield piece

"""The data set: the content of the four views as arrays, which may be memory-mapped."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from animora_training.errors import WidthMismatch

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
PostIndices = npt.NDArray[np.int32]
Embeddings = npt.NDArray[np.float16]

ABSENT = -1
# Rows of a chunk: about ten megabytes, temporary arrays included.
ROWS_AT_ONCE = 1 << 17


@dataclass(frozen=True, slots=True)
class Posts:
    """Posts by ascending id.

    Attributes:
        ids: int64 (p).
        authors: int64 (p), ids of users.
        created: float64 (p), seconds since the epoch.
        deleted: bool (p).
        image: float16 (p, image width), zeros where absent.
        caption: float16 (p, caption width), zeros where absent.
    """

    ids: IntArray
    authors: IntArray
    created: DoubleArray
    deleted: BoolArray
    image: Embeddings
    caption: Embeddings


@dataclass(frozen=True, slots=True)
class Rows:
    """Interactions in memory, one a row.

    Attributes:
        users: int64 (n), indices into the data set's user ids.
        posts: int64 (n), indices into its posts.
        times: float64 (n), seconds since the epoch.
    """

    users: IntArray
    posts: IntArray
    times: DoubleArray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: IntArray | BoolArray) -> "Rows":
        """The rows at indices or of a mask."""
        return Rows(self.users[chosen], self.posts[chosen], self.times[chosen])


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions in CSR form: ordered by user, then by time, then by post.

    Attributes:
        offsets: int64 (u + 1); those of user i are at offsets[i] : offsets[i + 1].
        posts: int32 (n), indices into the data set's posts.
        times: float64 (n), seconds since the epoch.
    """

    offsets: IntArray
    posts: PostIndices
    times: DoubleArray

    def __len__(self) -> int:
        return len(self.posts)

    @property
    def users(self) -> IntArray:
        """The user of each interaction, int64 (n), computed in memory on each access."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def latest(self) -> DoubleArray:
        """Time of the latest interaction of each user with any, float64 (k), seconds since the epoch."""
        return self.times[self.offsets[1:][np.diff(self.offsets) > 0] - 1]

    def take(self, chosen: BoolArray) -> "Interactions":
        """A copy in memory of the interactions of a mask."""
        rows = self.of_users(0, len(self.offsets) - 1).take(chosen)
        return collect([rows], len(self.offsets) - 1)

    def of_users(self, first: int, end: int) -> Rows:
        """A copy in memory of the interactions of users `first` to `end` - 1."""
        some = slice(self.offsets[first], self.offsets[end])
        users = np.repeat(np.arange(first, end), np.diff(self.offsets[first : end + 1]))
        return Rows(users, self.posts[some].astype(np.int64), self.times[some].copy())

    def chunks(self, rows: int = ROWS_AT_ONCE) -> Iterator[Rows]:
        """All interactions in chunks of whole users, of about `rows` rows; more only if one user has more."""
        first, users = 0, len(self.offsets) - 1
        while first < users:
            end = int(np.searchsorted(self.offsets, self.offsets[first] + rows, side="right")) - 1
            end = min(max(end, first + 1), first + rows, users)
            yield self.of_users(first, end)
            first = end


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that a model is trained on.

    Attributes:
        user_ids: int64 (u), ascending.
        posts: All posts, deleted ones too.
        events: Every like and every comment.
        pairs: Distinct pairs of user and post, at the time of the latest event.
        blocks: int64 (b, 2), ids of users that must not see each other's posts, each pair in both directions.
    """

    user_ids: IntArray
    posts: Posts
    events: Interactions
    pairs: Interactions
    blocks: IntArray

    def without_embeddings(self) -> "Dataset":
        """The same data set, as if no post had an image or a caption."""
        nothing = np.zeros((len(self.posts.ids), 0), np.float16)
        return replace(self, posts=replace(self.posts, image=nothing, caption=nothing))

    def with_widths(self, image: int, caption: int) -> "Dataset":
        """The data set with embeddings of a model's widths; zeros if it has none, none if the model has none.

        Raises:
            WidthMismatch: The data set has embeddings of another width.
        """
        posts = replace(
            self.posts,
            image=_as_wide_as(image, "image", self.posts.image),
            caption=_as_wide_as(caption, "caption", self.posts.caption),
        )
        return replace(self, posts=posts)

    def pair_keys(self, users: IntArray, posts: IntArray | PostIndices) -> IntArray:
        """A unique key int64 (...) for each pair of indices."""
        return users * len(self.posts.ids) + posts

    def blocked(self, users: IntArray, posts: IntArray | PostIndices) -> BoolArray:
        """Bool (...): whether a block hides each post from each user, both given as indices."""
        return Blocking(self).hides(users, posts)


class Blocking:
    """Index of a data set's blocks for repeated look-ups."""

    def __init__(self, dataset: Dataset) -> None:
        self._user_ids = dataset.user_ids
        self._authors = dataset.posts.authors
        # Every block is stored in both directions, so one column has all users.
        self._people = np.unique(dataset.blocks[:, 0])  # int64 (k)
        pairs = np.searchsorted(self._people, dataset.blocks)
        self._hidden = np.sort(pairs @ np.array([len(self._people), 1]))  # int64 (b)

    def hides(self, users: IntArray, posts: IntArray | PostIndices) -> BoolArray:
        """Bool (...): whether a block hides each post from each user, both given as indices."""
        if not len(self._people):
            return np.zeros(np.broadcast_shapes(users.shape, posts.shape), np.bool_)
        viewers = index_of(self._user_ids[users], self._people)
        authors = index_of(self._authors[posts], self._people)
        keys = viewers * len(self._people) + authors
        known = (viewers != ABSENT) & (authors != ABSENT)
        hidden: BoolArray = known & (index_of(keys, self._hidden) != ABSENT)
        return hidden


def latest_of_each(rows: Rows, posts: int) -> Rows:
    """The last row of each pair of user and post.

    Args:
        rows: Rows of whole users, ordered by user, then by time.
        posts: Number of posts in the data set.
    """
    order, ends = _runs(rows, posts)
    return rows if ends.all() else rows.take(np.sort(order[ends]))


def earliest_of_each(rows: Rows, posts: int) -> Rows:
    """The first row of each pair of user and post; see `latest_of_each`."""
    order, ends = _runs(rows, posts)
    return rows if ends.all() else rows.take(np.sort(order[np.roll(ends, 1)]))


def _runs(rows: Rows, posts: int) -> tuple[IntArray, BoolArray]:
    """Positions int64 (n) ordered by user, post and time, and a mask of the last position of each pair."""
    keys = (rows.users - rows.users[:1]) * posts + rows.posts
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return order, np.append(ordered[1:] != ordered[:-1], True)[: len(order)]


def collect(chunks: Iterable[Rows], users: int) -> Interactions:
    """Interactions of `users` users, in memory, from chunks ordered by user."""
    nothing = Rows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    parts = [nothing, *chunks]
    counts = np.bincount(np.concatenate([rows.users for rows in parts]), minlength=users)
    return Interactions(
        offsets=offsets_of(counts),
        posts=np.concatenate([rows.posts for rows in parts]).astype(np.int32),
        times=np.concatenate([rows.times for rows in parts]),
    )


def offsets_of(counts: IntArray) -> IntArray:
    """CSR offsets int64 (u + 1) of counts int64 (u)."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


def index_of(ids: IntArray, ascending: IntArray) -> IntArray:
    """Positions int64 (...) of ids in an ascending array; ABSENT for missing ids."""
    if not len(ascending):
        return np.full(ids.shape, ABSENT, np.int64)
    at = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[at] == ids, at, ABSENT)


def _as_wide_as(width: int, name: str, embeddings: Embeddings) -> Embeddings:
    if embeddings.shape[1] == width:
        return embeddings
    if width and embeddings.shape[1]:
        raise WidthMismatch(f"{name} embeddings are {embeddings.shape[1]} wide, the model takes {width}")
    # One row of zeros, broadcast to all posts.
    return np.broadcast_to(np.zeros((1, width), np.float16), (len(embeddings), width))

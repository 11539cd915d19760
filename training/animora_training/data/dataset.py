"""What the four views hold, as arrays that may be memory-mapped: users, posts, likes and comments, blocks."""

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
# What is worked on in memory at a time: some ten megabytes, temporary arrays included.
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
    """Some interactions, in memory.

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
        """Those at indices, or where a mask says so."""
        return Rows(self.users[chosen], self.posts[chosen], self.times[chosen])


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions by user, each user's by time and then by post.

    Attributes:
        offsets: int64 (u + 1); user i's are at offsets[i] to offsets[i + 1].
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
        """The user of each, int64 (n), made anew: only for what fits into memory."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def latest(self) -> DoubleArray:
        """When the latest one of each user who has any was, float64 (k), in seconds since the epoch."""
        return self.times[self.offsets[1:][np.diff(self.offsets) > 0] - 1]

    def take(self, chosen: BoolArray) -> "Interactions":
        """A copy, in memory, of those where a mask says so."""
        rows = self.of_users(0, len(self.offsets) - 1).take(chosen)
        return collect([rows], len(self.offsets) - 1)

    def of_users(self, first: int, end: int) -> Rows:
        """A copy, in memory, of those of the users with indices from `first` to before `end`."""
        some = slice(self.offsets[first], self.offsets[end])
        users = np.repeat(np.arange(first, end), np.diff(self.offsets[first : end + 1]))
        return Rows(users, self.posts[some].astype(np.int64), self.times[some].copy())

    def chunks(self, rows: int = ROWS_AT_ONCE) -> Iterator[Rows]:
        """All of them, in chunks of whole users: about as many rows, more only where one user has more."""
        first, users = 0, len(self.offsets) - 1
        while first < users:
            end = int(np.searchsorted(self.offsets, self.offsets[first] + rows, side="right")) - 1
            end = min(max(end, first + 1), first + rows, users)
            yield self.of_users(first, end)
            first = end


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that a model is fitted on.

    Attributes:
        user_ids: int64 (u), ascending.
        posts: All posts, deleted ones too.
        events: Every like and every comment.
        pairs: The events with each user's several on one post taken as one, at the time of the latest.
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
        """The same data set with embeddings as wide as a model takes them; it may take none, or get none.

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
        """A number int64 (...) for each pair of indices, distinct for distinct pairs."""
        return users * len(self.posts.ids) + posts

    def blocked(self, users: IntArray, posts: IntArray | PostIndices) -> BoolArray:
        """Bool (...): whether a block hides each post from each user, both given as indices."""
        return Blocking(self).hides(users, posts)


class Blocking:
    """A data set's blocks, made ready once for many questions."""

    def __init__(self, dataset: Dataset) -> None:
        self._user_ids = dataset.user_ids
        self._authors = dataset.posts.authors
        # Every block is there in both directions, so either column names all people.
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
    """The rows, which go by user and then by time, with each user's several on a post taken as the last one.

    Args:
        rows: Of whole users.
        posts: How many posts there are.
    """
    order, ends = _runs(rows, posts)
    return rows if ends.all() else rows.take(np.sort(order[ends]))


def earliest_of_each(rows: Rows, posts: int) -> Rows:
    """Like latest_of_each, with the first one."""
    order, ends = _runs(rows, posts)
    return rows if ends.all() else rows.take(np.sort(order[np.roll(ends, 1)]))


def _runs(rows: Rows, posts: int) -> tuple[IntArray, BoolArray]:
    """Positions int64 (n) by user, post and time, and where in them the last of each user and post is."""
    keys = (rows.users - rows.users[:1]) * posts + rows.posts
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return order, np.append(ordered[1:] != ordered[:-1], True)[: len(order)]


def collect(chunks: Iterable[Rows], users: int) -> Interactions:
    """Interactions of so many users from chunks that go by user, in memory."""
    nothing = Rows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    parts = [nothing, *chunks]
    counts = np.bincount(np.concatenate([rows.users for rows in parts]), minlength=users)
    return Interactions(
        offsets=offsets_of(counts),
        posts=np.concatenate([rows.posts for rows in parts]).astype(np.int32),
        times=np.concatenate([rows.times for rows in parts]),
    )


def offsets_of(counts: IntArray) -> IntArray:
    """Where each of so many begins, and the end of the last: int64 (u + 1) of counts int64 (u)."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


def index_of(ids: IntArray, ascending: IntArray) -> IntArray:
    """Positions int64 (...) of ids in an ascending array, ABSENT where they are not in it."""
    if not len(ascending):
        return np.full(ids.shape, ABSENT, np.int64)
    at = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[at] == ids, at, ABSENT)


def _as_wide_as(width: int, name: str, embeddings: Embeddings) -> Embeddings:
    if embeddings.shape[1] == width:
        return embeddings
    if width and embeddings.shape[1]:
        raise WidthMismatch(f"{name} embeddings are {embeddings.shape[1]} wide, the model takes {width}")
    # One row of zeros, seen as all of them.
    return np.broadcast_to(np.zeros((1, width), np.float16), (len(embeddings), width))

"""What the four views hold, as arrays: users, posts, likes and comments, blocks."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from animora_training.errors import WidthMismatch

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ABSENT = -1


@dataclass(frozen=True, slots=True)
class Posts:
    """Posts by ascending id.

    Attributes:
        ids: int64 (p).
        authors: int64 (p), ids of users.
        created: float64 (p), seconds since the epoch.
        deleted: bool (p).
        image: float32 (p, image width), zeros where absent.
        caption: float32 (p, caption width), zeros where absent.
    """

    ids: IntArray
    authors: IntArray
    created: DoubleArray
    deleted: BoolArray
    image: FloatArray
    caption: FloatArray


@dataclass(frozen=True, slots=True)
class Interactions:
    """Likes and comments of users on posts.

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

    def take(self, chosen: IntArray | BoolArray) -> "Interactions":
        """Those at indices, or where a mask says so."""
        return Interactions(self.users[chosen], self.posts[chosen], self.times[chosen])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that a model is fitted on.

    Attributes:
        user_ids: int64 (u), ascending.
        posts: All posts, deleted ones too.
        events: Every like and every comment, by time.
        blocks: int64 (b, 2), ids of users that must not see each other's posts, each pair in both directions.
    """

    user_ids: IntArray
    posts: Posts
    events: Interactions
    blocks: IntArray

    def without_embeddings(self) -> "Dataset":
        """The same data set, as if no post had an image or a caption."""
        nothing = np.zeros((len(self.posts.ids), 0), np.float32)
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

    def pair_keys(self, users: IntArray, posts: IntArray) -> IntArray:
        """A number int64 (...) for each pair of indices, distinct for distinct pairs."""
        return users * len(self.posts.ids) + posts

    def pairs(self) -> Interactions:
        """The events with each user's several on one post taken as one, at the time of the latest."""
        keys = self.pair_keys(self.events.users, self.events.posts)
        # Events go by time, so in the reversed array the first of a key is its latest.
        _, reversed_first = np.unique(keys[::-1], return_index=True)
        return self.events.take(len(keys) - 1 - reversed_first)

    def blocked(self, users: IntArray, posts: IntArray) -> BoolArray:
        """Bool (...): whether a block hides each post from each user, both given as indices."""
        shape = np.broadcast_shapes(users.shape, posts.shape)
        if not len(self.blocks):
            return np.zeros(shape, np.bool_)
        people = np.unique(np.concatenate((self.user_ids, self.posts.authors, self.blocks.ravel())))
        hidden = np.searchsorted(people, self.blocks) @ np.array([len(people), 1])  # int64 (b)
        viewers = np.searchsorted(people, self.user_ids[users])
        authors = np.searchsorted(people, self.posts.authors[posts])
        return np.broadcast_to(np.isin(viewers * len(people) + authors, hidden), shape)


def _as_wide_as(width: int, name: str, embeddings: FloatArray) -> FloatArray:
    if embeddings.shape[1] == width:
        return embeddings
    if width and embeddings.shape[1]:
        raise WidthMismatch(f"{name} embeddings are {embeddings.shape[1]} wide, the model takes {width}")
    return np.zeros((len(embeddings), width), np.float32)


def index_of(ids: IntArray, ascending: IntArray) -> IntArray:
    """Positions int64 (...) of ids in an ascending array, ABSENT where they are not in it."""
    if not len(ascending):
        return np.full(ids.shape, ABSENT, np.int64)
    at = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[at] == ids, at, ABSENT)


def chronological(users: IntArray, posts: IntArray, times: DoubleArray) -> Interactions:
    """Interactions by time, then by user and post, so that equal data give an equal order."""
    order = np.lexsort((posts, users, times))
    return Interactions(users[order], posts[order], times[order])

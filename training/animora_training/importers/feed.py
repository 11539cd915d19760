"""The feed that an import writes into Animora's own tables."""

from dataclasses import dataclass

from animora_training.data.dataset import DoubleArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class FeedPosts:
    """Posts of a feed.

    Attributes:
        ids: int64 (p).
        authors: int64 (p), user ids.
        captions: Texts (p).
        created: float64 (p), seconds since the epoch.
        deleted: float64 (p), seconds since the epoch, NaN for a live post.
        image: float32 (p, image width); a row of zeros, or no columns, for none.
        caption: float32 (p, caption width); likewise.
    """

    ids: IntArray
    authors: IntArray
    captions: list[str]
    created: DoubleArray
    deleted: DoubleArray
    image: FloatArray
    caption: FloatArray


@dataclass(frozen=True, slots=True)
class Likes:
    """Likes: user ids int64 (n), post ids int64 (n), times float64 (n) in seconds since the epoch."""

    users: IntArray
    posts: IntArray
    times: DoubleArray


@dataclass(frozen=True, slots=True)
class Comments:
    """Comments: user ids int64 (n), post ids int64 (n), times float64 (n), texts (n)."""

    users: IntArray
    posts: IntArray
    times: DoubleArray
    bodies: list[str]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks: ids int64 (b) of blocking and of blocked users, times float64 (b)."""

    blockers: IntArray
    blocked: IntArray
    times: DoubleArray


@dataclass(frozen=True, slots=True)
class ImportFeed:
    """A feed: user ids int64 (u), posts, likes, comments and blocks."""

    user_ids: IntArray
    posts: FeedPosts
    likes: Likes
    comments: Comments
    blocks: Blocks

"""Synthetic likes of the size of MovieLens 1M, long-tailed and with latent tastes, decided by a seed."""

import numpy as np

from animora_training.data.dataset import IntArray
from animora_training.importers.feed import Blocks, Comments, FeedPosts, ImportFeed, Likes

USERS, POSTS, PAIRS = 6_040, 3_706, 994_169
MIN_PAIRS = 20  # of a user
TASTES = 12
TASTE = 1.5  # standard deviation of the log appeal that comes from taste
APPEAL_SPREAD, ACTIVITY_SPREAD = 1.6, 1.0
MAX_SHARE = 0.6  # of the posts that one user likes


def synthetic_feed(seed: int, users: int = USERS, posts: int = POSTS, pairs: int = PAIRS) -> ImportFeed:
    """Likes of users 0, 1, … on posts 0, 1, …, all at one time and each pair once."""
    rng = np.random.default_rng(seed)
    appeal = rng.normal(scale=APPEAL_SPREAD, size=posts)
    tastes = rng.normal(size=(users, TASTES))
    contents = rng.normal(scale=TASTE / np.sqrt(TASTES), size=(posts, TASTES))
    liked = []
    for user, count in enumerate(_activity(rng, users, posts, pairs).tolist()):
        # The highest of appeals with Gumbel noise are a draw without replacement by their exponentials.
        drawn = appeal + contents @ tastes[user] + rng.gumbel(size=posts)
        liked.append(np.stack((np.full(count, user), np.argpartition(-drawn, count)[:count]), axis=1))
    both = np.concatenate(liked)
    author, nothing = users, np.empty(0, np.int64)
    return ImportFeed(
        user_ids=np.arange(users + 1),
        posts=FeedPosts(
            ids=np.arange(posts),
            authors=np.full(posts, author),
            captions=[""] * posts,
            created=np.zeros(posts),
            deleted=np.full(posts, np.nan),
            image=np.zeros((posts, 0), np.float32),
            caption=np.zeros((posts, 0), np.float32),
        ),
        likes=Likes(both[:, 0], both[:, 1], np.zeros(len(both))),
        comments=Comments(nothing, nothing, np.empty(0), []),
        blocks=Blocks(nothing, nothing, np.empty(0)),
    )


def _activity(rng: np.random.Generator, users: int, posts: int, pairs: int) -> IntArray:
    """Number of likes of each user, int64 (users): long-tailed, with the given sum."""
    least, most = min(MIN_PAIRS, pairs // users), int(MAX_SHARE * posts)
    weights = rng.lognormal(sigma=ACTIVITY_SPREAD, size=users)
    counts = np.full(users, least)
    while (missing := pairs - int(counts.sum())) > 0:
        open_to_more = weights * (counts < most)
        share = np.floor(missing * open_to_more / open_to_more.sum()).astype(np.int64)
        if not share.any():
            share[rng.choice(users, missing, p=open_to_more / open_to_more.sum())] = 1
        counts = np.minimum(counts + share, most)
    return counts

"""Likes and comments of the synthetic feed."""

import numpy as np

from animora_training.data.dataset import BoolArray, DoubleArray, IntArray
from animora_training.importers.feed import Blocks, Comments, ImportFeed, Likes
from animora_training.importers.sample import DAY, SampleSize, World, make_world
from animora_training.importers.sample_text import remarks

TASTE = 6.0  # added to the log appeal of a post at a full match of taste
ACTIVITY_SPREAD = 0.8
LIKE_SHARE, COMMENT_SHARE = 0.92, 0.18  # shares of the pairs; some have both
# Attention after a post's creation: a burst and a long tail, both exponential.
BURST_SHARE, BURST, TAIL = 0.15, 6 * 3600.0, 20 * DAY
PEAK_HOUR = 20.0
HOURS_TRIED = 6


def make_feed(size: SampleSize, seed: int, now: float) -> ImportFeed:
    """Makes the feed: a world, and the interactions of its users until `now` (seconds since the epoch)."""
    world = make_world(size, seed, now)
    rng = np.random.default_rng((seed, 5))
    users, posts = _pairs(size, world, now, rng)
    times = _times(world, users, posts, now, rng)
    likes = rng.random(len(users)) < LIKE_SHARE
    comments = ~likes | (rng.random(len(users)) < COMMENT_SHARE - (1 - LIKE_SHARE))
    until = _ends(world, now)
    # A comment follows its like within minutes.
    comment_times = np.minimum(times + likes * rng.exponential(120.0, len(users)), until[posts])
    return ImportFeed(
        user_ids=np.arange(1, size.users + 1),
        posts=world.posts,
        likes=Likes(users[likes] + 1, world.posts.ids[posts[likes]], times[likes]),
        comments=Comments(
            users[comments] + 1,
            world.posts.ids[posts[comments]],
            comment_times[comments],
            remarks(int(comments.sum()), rng),
        ),
        blocks=Blocks(
            world.blocks[:, 0] + 1,
            world.blocks[:, 1] + 1,
            now - size.days * DAY * rng.random(len(world.blocks)),
        ),
    )


def _pairs(size: SampleSize, world: World, now: float, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Distinct pairs, as indices (n) of users and posts, sampled by appeal and taste without replacement."""
    appeal = np.log(world.quality) + np.log(_attention(_ends(world, now) - world.posts.created) + 1e-12)
    appeal[~world.warm] = -np.inf
    activity = rng.lognormal(sigma=ACTIVITY_SPREAD, size=size.users) * world.active
    wanted = np.round(activity / activity.sum() * size.pairs).astype(np.int64)
    wanted = np.minimum(np.maximum(wanted, world.active), size.posts // 4)
    hidden = _hidden(world)
    users, posts = [], []
    for user in np.flatnonzero(world.active):
        weights = appeal + TASTE * (world.contents @ world.tastes[user]) + rng.gumbel(size=size.posts)
        weights[hidden[user]] = -np.inf
        chosen = np.argpartition(-weights, wanted[user])[: wanted[user]]
        chosen = chosen[np.isfinite(weights[chosen])]
        users.append(np.full(len(chosen), user))
        posts.append(chosen)
    return np.concatenate(users), np.concatenate(posts)


def _hidden(world: World) -> BoolArray:
    """Bool (u, p): posts that a user does not interact with: blocked ones and the user's own."""
    users = len(world.tastes)
    hidden_authors = np.eye(users, dtype=np.bool_)
    hidden_authors[world.blocks[:, 0], world.blocks[:, 1]] = True
    return (hidden_authors | hidden_authors.T)[:, world.posts.authors - 1]


def _ends(world: World, now: float) -> DoubleArray:
    """End of each post's lifetime, float64 (p): its deletion or now."""
    return np.where(np.isnan(world.posts.deleted), now, world.posts.deleted)


def _attention(ages: DoubleArray) -> DoubleArray:
    """Cumulative share of attention at an age in seconds."""
    missed: DoubleArray = BURST_SHARE * np.exp(-ages / BURST) + (1 - BURST_SHARE) * np.exp(-ages / TAIL)
    return np.subtract(1.0, missed)


def _times(
    world: World, users: IntArray, posts: IntArray, now: float, rng: np.random.Generator
) -> DoubleArray:
    """Time of each pair, float64 (n), within the post's lifetime, mostly in the evening.

    Several moments are sampled by attention; one of them is chosen by the hour of the day.
    """
    lifetimes = (_ends(world, now) - world.posts.created)[posts][:, None]
    shape = (len(users), HOURS_TRIED)
    scales = np.where(rng.random(shape) < BURST_SHARE, BURST, TAIL)
    # Exponential, cut off at the lifetime, by inversion.
    delays = -scales * np.log1p(rng.random(shape) * np.expm1(-lifetimes / scales))
    moments = world.posts.created[posts][:, None] + delays
    hours = moments / 3600.0 % 24
    liveliness = 1.0 + 0.9 * np.cos((hours - PEAK_HOUR) / 24 * 2 * np.pi)
    chosen = np.argmax(np.log(liveliness) + rng.gumbel(size=shape), axis=1)
    times: DoubleArray = moments[np.arange(len(users)), chosen]
    return times

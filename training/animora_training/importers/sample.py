"""A synthetic pet-photo feed with known user tastes, deterministic by seed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from animora_training.data.dataset import BoolArray, DoubleArray, FloatArray, IntArray
from animora_training.errors import InvalidOption
from animora_training.importers.feed import FeedPosts
from animora_training.importers.sample_text import BREEDS, NAMES, SCENES, caption

LATENT = 24
MAX_USERS = 20_000  # a matrix (users, authors) is allocated
DAY = 86_400.0
COLD_USERS = 0.05
COLD_POSTS = 0.03
COLD_AGE = 0.5 * DAY
DELETED_POSTS = 0.015
BLOCKS_PER_USER = 0.2
# Weights of the depicted species, breed and scene in a post's content vector.
SPECIES_WEIGHT, BREED_WEIGHT, SCENE_WEIGHT = 1.0, 0.8, 0.8
EMBEDDING_NOISE = 0.7
LIKED_AFFINITY = 0.35

SPECIES_OF_BREED = np.repeat(np.arange(len(BREEDS)), [len(breeds) for breeds in BREEDS.values()])
BREED_NAMES = [breed for breeds in BREEDS.values() for breed in breeds]


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Size of a feed.

    Attributes:
        users: Number of users, cold ones included.
        posts: Number of posts, cold and deleted ones included.
        pairs: Number of pairs of a user and a liked or commented post.
        days: Length of the feed in days.
        width: Width of image and caption embeddings.
    """

    users: int = 2_400
    posts: int = 5_400
    pairs: int = 150_000
    days: float = 60.0
    width: int = 768

    def __post_init__(self) -> None:
        """Validates the sizes.

        Raises:
            InvalidOption: Names the field.
        """
        if not 20 <= self.users <= MAX_USERS:
            raise InvalidOption("users", f"must be at least 20 and at most {MAX_USERS}")
        if self.posts < 50:
            raise InvalidOption("posts", "must be at least 50")
        if not 0 < self.pairs <= self.users * self.posts // 10:
            raise InvalidOption("pairs", "must be positive, and at most a tenth of users times posts")
        if self.days < 2:
            raise InvalidOption("days", "must be at least 2")
        if self.width < LATENT:
            raise InvalidOption("width", f"must be at least {LATENT}")


FULL = SampleSize()
SMALL = SampleSize(users=240, posts=700, pairs=8_000, width=64)


@dataclass(frozen=True, slots=True)
class World:
    """Users with tastes and posts with contents, without interactions. Ids start at 1.

    Attributes:
        tastes: float64 (u, LATENT), unit length.
        contents: float64 (p, LATENT), unit length.
        quality: float64 (p), positive: general appeal of a post.
        active: bool (u), False for cold users.
        warm: bool (p), False for cold posts, which have no interactions.
        posts: The posts to import.
        blocks: int64 (b, 2), indices of blocking and blocked users.
    """

    tastes: DoubleArray
    contents: DoubleArray
    quality: DoubleArray
    active: BoolArray
    warm: BoolArray
    posts: FeedPosts
    blocks: IntArray

    def affinity(self, users: IntArray, posts: IntArray) -> DoubleArray:
        """Ground truth (u, p) in [-1, 1]: match of posts with the tastes of users, both given by id."""
        return self.tastes[users - 1] @ self.contents[posts - 1].T

    def likes(self, users: IntArray, posts: IntArray) -> BoolArray:
        """Bool (u, p): which posts match which users' tastes."""
        return self.affinity(users, posts) > LIKED_AFFINITY


def make_world(size: SampleSize, seed: int, now: float) -> World:
    """Makes the world of a seed; `now`, seconds since the epoch, only shifts it in time."""
    rng = np.random.default_rng((seed, 1))
    species = _unit(rng.normal(size=(len(BREEDS), LATENT)))
    breeds = _unit(rng.normal(size=(len(BREED_NAMES), LATENT)))
    scenes = _unit(rng.normal(size=(len(SCENES), LATENT)))
    breed_contents = SPECIES_WEIGHT * species[SPECIES_OF_BREED] + BREED_WEIGHT * breeds

    authors = rng.integers(size.users, size=size.posts)
    pets = rng.choice(len(BREED_NAMES), size=size.users, p=_zipf(len(BREED_NAMES), 0.5))
    scene = rng.integers(len(SCENES), size=size.posts)
    contents = _unit(
        breed_contents[pets[authors]]
        + SCENE_WEIGHT * scenes[scene]
        + rng.normal(scale=0.3 / np.sqrt(LATENT), size=(size.posts, LATENT))
    )
    # A user's taste: a favourite breed (often that of the own pet), a second one, and three scenes.
    at_home = rng.random(size.users) < 0.5
    favourite = np.where(at_home, pets, rng.integers(len(BREED_NAMES), size=size.users))
    second = rng.integers(len(BREED_NAMES), size=size.users)
    favourite_scenes = scenes[rng.integers(len(SCENES), size=(size.users, 3))].sum(axis=1)
    tastes = _unit(breed_contents[favourite] + 0.6 * breed_contents[second] + SCENE_WEIGHT * favourite_scenes)

    created = np.sort(rng.random(size.posts)) * (size.days * DAY - COLD_AGE)
    cold = round(COLD_POSTS * size.posts)
    created[-cold:] = size.days * DAY - COLD_AGE * np.sort(rng.random(cold))[::-1]
    created += now - size.days * DAY
    warm = np.arange(size.posts) < size.posts - cold
    deleted = np.where(warm & (rng.random(size.posts) < DELETED_POSTS), rng.random(size.posts), np.nan)
    active = rng.permutation(size.users) >= round(COLD_USERS * size.users)
    names = rng.integers(len(NAMES), size=size.users)
    texts = np.random.default_rng((seed, 2))
    return World(
        tastes=tastes,
        contents=contents,
        quality=rng.permutation(_zipf(size.posts, 0.7)) * size.posts,
        active=active,
        warm=warm,
        posts=FeedPosts(
            ids=np.arange(1, size.posts + 1),
            authors=authors + 1,
            captions=[
                caption((NAMES[names[author]], BREED_NAMES[pets[author]], SCENES[place]), texts)
                for author, place in zip(authors, scene, strict=True)
            ],
            created=created,
            deleted=created + deleted * (now - created),
            image=_embed(contents, size.width, np.random.default_rng((seed, 3))),
            caption=_embed(contents, size.width, np.random.default_rng((seed, 4))),
        ),
        blocks=_blocks(size.users, rng),
    )


def _embed(contents: DoubleArray, width: int, rng: np.random.Generator) -> FloatArray:
    """Unit-length embeddings float32 (p, width): projected contents plus noise."""
    directions = rng.normal(size=(LATENT, width)) / np.sqrt(width)
    noise = rng.normal(scale=EMBEDDING_NOISE / np.sqrt(width), size=(len(contents), width))
    return _unit(contents @ directions + noise).astype(np.float32)


def _blocks(users: int, rng: np.random.Generator) -> IntArray:
    pairs = rng.integers(users, size=(round(BLOCKS_PER_USER * users), 2))
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def _zipf(count: int, exponent: float) -> DoubleArray:
    """Zipf probabilities float64 (count)."""
    weights: DoubleArray = np.arange(1.0, count + 1) ** -exponent
    return weights / np.sum(weights)


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths

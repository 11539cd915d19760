"""Ranks held-out posts among their candidates with a network, as the server does."""

from dataclasses import dataclass

import numpy as np
import torch

from animora_artifact import Artifact, Vocabulary
from animora_artifact.network import Network, load_network
from animora_artifact.vocabulary import UNKNOWN_ROW, RowIndex
from animora_training.data.dataset import BoolArray, Dataset, FloatArray, IntArray, Posts
from animora_training.data.split import HeldOut
from animora_training.errors import NothingToLearn
from animora_training.evaluation.metrics import Scores, held_out_ranks, hit_ratio, ndcg

TOP = 10
# With fewer negatives a held-out post is always among the first TOP.
FEWEST_NEGATIVES = TOP
POSTS_AT_ONCE = 1 << 12
PAIRS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class Quality:
    """HR@10 and NDCG@10, means over users."""

    hit_ratio: float
    ndcg: float

    @classmethod
    def of(cls, ranks: IntArray) -> "Quality":
        """Quality of ranks int64 (m), 0 for the best."""
        return cls(hit_ratio(ranks, TOP), ndcg(ranks, TOP))


@dataclass(frozen=True, slots=True)
class UserRanks:
    """Rank of each user's held-out post.

    Attributes:
        user_ids: int64 (m), the users that the model knows.
        ranks: int64 (m), 0 for the best.
        candidates: Mean number of candidates, the held-out post included.
        skipped: Number of users that the model does not know.
    """

    user_ids: IntArray
    ranks: IntArray
    candidates: float
    skipped: int

    @property
    def quality(self) -> Quality:
        """Means over the users."""
        return Quality.of(self.ranks)


class PostScorer:
    """Scores users and posts of a data set with a network; each post is encoded once.

    Attributes:
        has_features: bool (p), the posts of which the network knows the id or an embedding.
    """

    def __init__(self, network: Network, vocabulary: Vocabulary, dataset: Dataset) -> None:
        """Encodes all posts; embeddings must have the network's widths."""
        posts = dataset.posts
        self._network = network
        self._user_rows = RowIndex(vocabulary.user_ids).rows(dataset.user_ids)  # int64 (u)
        rows = RowIndex(vocabulary.post_ids).rows(posts.ids)
        self._table = _encode(network, rows, posts)  # (p, d)
        self.has_features = (rows != UNKNOWN_ROW) | _have_embeddings(posts)  # bool (p)

    def knows(self, users: IntArray) -> BoolArray:
        """Bool (m): which users, given as indices, have a row."""
        known: BoolArray = self._user_rows[users] != UNKNOWN_ROW
        return known

    def candidates(self, held_out: HeldOut) -> FloatArray:
        """Logits float32 (m, 1 + k) of the candidates as the server computes them; undefined for absent ones.

        A post without features gets the median of its row's other scores.
        """
        posts = np.maximum(held_out.candidates, 0)
        return impute_with_medians(
            self.grid(held_out.users, posts), self.has_features[posts] & held_out.present
        )

    @torch.inference_mode()
    def grid(self, users: IntArray, posts: IntArray) -> FloatArray:
        """Logits float32 (m, k) of users (m) with posts (m, k), given as indices."""
        width = max(posts.shape[1], 1)
        scores = [np.empty((0, posts.shape[1]), np.float32)]
        for start in range(0, len(users), max(PAIRS_AT_ONCE // width, 1)):
            some = slice(start, start + max(PAIRS_AT_ONCE // width, 1))
            rows = torch.from_numpy(self._user_rows[users[some]])
            index = torch.from_numpy(posts[some])
            segments = torch.arange(len(rows)).repeat_interleave(width)
            logits = self._network.score(rows, segments, self._table, index.reshape(-1))
            scores.append(logits.view(index.shape).numpy())
        return np.concatenate(scores)

    @torch.inference_mode()
    def catalog(self, users: IntArray) -> FloatArray:
        """Logits float32 (m, p) of users (m), given as indices, with all posts."""
        posts = len(self._table)
        scores = [np.empty((0, posts), np.float32)]
        at_once = max(PAIRS_AT_ONCE // max(posts, 1), 1)
        for start in range(0, len(users), at_once):
            rows = torch.from_numpy(self._user_rows[users[start : start + at_once]])
            segments = torch.arange(len(rows)).repeat_interleave(posts)
            index = torch.arange(posts).repeat(len(rows))
            logits = self._network.score(rows, segments, self._table, index)
            scores.append(logits.view(len(rows), posts).numpy())
        return np.concatenate(scores)


@dataclass(frozen=True, slots=True)
class AsServed:
    """Recommender that scores as the server does: posts without features get the median score."""

    scorer: PostScorer

    def knows(self, users: IntArray) -> BoolArray:
        """Bool (m): which users, given as indices, have a row."""
        return self.scorer.knows(users)

    def grid(self, users: IntArray, posts: IntArray) -> FloatArray:
        """See Recommender."""
        return impute_with_medians(self.scorer.grid(users, posts), self.scorer.has_features[posts])

    def catalog(self, users: IntArray) -> FloatArray:
        """See Recommender."""
        scores = self.scorer.catalog(users)
        return impute_with_medians(scores, np.broadcast_to(self.scorer.has_features, scores.shape))


def impute_with_medians(scores: FloatArray, has_features: BoolArray) -> FloatArray:
    """Replaces scores float32 (m, k) of posts without features by the median of their row, in place."""
    some = np.flatnonzero(has_features.any(axis=1) & ~has_features.all(axis=1))
    for row in some.tolist():
        scores[row, ~has_features[row]] = np.median(scores[row, has_features[row]])
    return scores


def rank_held_out(posts: Posts, scores: Scores, held_out: HeldOut) -> IntArray:
    """Ranks int64 (m), 0 for the best, of the held-out posts by scores (m, 1 + k); ties as the server's.

    Raises:
        NotFinite: A candidate's score is not finite.
    """
    candidates = np.maximum(held_out.candidates, 0)
    return held_out_ranks(scores, held_out.present, posts.created[candidates], posts.ids[candidates])


def rank_with_artifact(artifact: Artifact, dataset: Dataset, held_out: HeldOut) -> UserRanks:
    """Ranks held-out posts with the network of an artifact.

    Raises:
        ArtifactRejected: The model does not load.
        WidthMismatch: The data set's embeddings have another width than the model's.
        NothingToLearn: There is no held-out pair, or the model knows none of the users.
        NotFinite: The model's scores are not finite.
    """
    if not len(held_out.users):
        raise NothingToLearn("no held-out post has enough others to be ranked among")
    dimensions = artifact.manifest.dimensions
    fitted = dataset.with_widths(image=dimensions.image, caption=dimensions.caption)
    network = load_network(artifact.model, torch.device("cpu"))
    scorer = PostScorer(network, artifact.vocabulary, fitted)
    known = scorer.knows(held_out.users)
    if not known.any():
        raise NothingToLearn(
            f"the model {artifact.manifest.version} knows none of the {len(known)} users to rank for: "
            "was it trained on this database?"
        )
    chosen = held_out.take(known)
    ranks = rank_held_out(dataset.posts, scorer.candidates(chosen), chosen)
    return UserRanks(
        user_ids=dataset.user_ids[chosen.users],
        ranks=ranks,
        candidates=chosen.mean_candidates,
        skipped=int((~known).sum()),
    )


def _have_embeddings(posts: Posts) -> BoolArray:
    """Bool (p): which posts have an image or a caption embedding."""
    parts = [
        matrix[start : start + POSTS_AT_ONCE].any(axis=1)
        for matrix in (posts.image, posts.caption)
        for start in range(0, len(posts.ids), POSTS_AT_ONCE)
    ]
    image, caption = np.concatenate([np.zeros(0, np.bool_), *parts]).reshape(2, -1)
    either: BoolArray = image | caption
    return either


@torch.inference_mode()
def _encode(network: Network, rows: IntArray, posts: Posts) -> torch.Tensor:
    encoded = [
        network.encode_posts(
            torch.from_numpy(rows[start : start + POSTS_AT_ONCE]),
            torch.from_numpy(posts.image[start : start + POSTS_AT_ONCE].astype(np.float32)),
            torch.from_numpy(posts.caption[start : start + POSTS_AT_ONCE].astype(np.float32)),
        )
        for start in range(0, len(rows), POSTS_AT_ONCE)
    ]
    return torch.cat(encoded)

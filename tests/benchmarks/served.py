"""Held-out pairs ranked by a running server, compared with the trainer's ranks."""

from dataclasses import dataclass, field

import numpy as np
import torch
from rich.progress import track
from scipy.special import expit

from animora_artifact import Artifact
from animora_artifact.network import load_network
from animora_client import AsyncRankingClient, CachePolicy, Ranker, Ranking, RankRequest
from animora_training.data.dataset import ABSENT, BoolArray, Dataset, FloatArray, IntArray
from animora_training.data.split import HeldOut
from animora_training.evaluation.network_ranking import TOP, PostScorer, Quality, rank_held_out

USERS_AT_ONCE, CANDIDATES_AT_ONCE = 100, 50_000
TRIES = 3


@dataclass(frozen=True, slots=True)
class ServedRanks:
    """The server's ranks of the held-out items.

    Attributes:
        ranks: int64 (m), 0 for the best.
        personal: bool (m), whether the model ranked; the heuristic ranks for users outside the vocabulary.
        scores: float32 (m, 1 + k), scores of the candidates; NaN where absent.
    """

    ranks: IntArray
    personal: BoolArray
    scores: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Differences between the server's and the trainer's rankings, for users in the vocabulary.

    Attributes:
        users: Number of users.
        farthest: Largest difference of the two probabilities of a candidate.
        moved: Number of held-out items with different ranks; scores within rounding may swap.
        served: Quality of the server's ranks.
        trained: Quality of the trainer's ranks.
    """

    users: int
    farthest: float
    moved: int
    served: Quality
    trained: Quality

    @classmethod
    def of(cls, artifact: Artifact, dataset: Dataset, held_out: HeldOut, served: ServedRanks) -> "Agreement":
        """Compares score by score.

        Args:
            artifact: The served version.
            dataset: The data set; its embeddings have the widths of the model, or are absent.
            held_out: The ranked pairs.
            served: The server's ranks.
        """
        dimensions = artifact.manifest.dimensions
        fitted = dataset.with_widths(image=dimensions.image, caption=dimensions.caption)
        scorer = PostScorer(load_network(artifact.model, torch.device("cpu")), artifact.vocabulary, fitted)
        known = held_out.take(served.personal)
        scores, theirs = scorer.candidates(known), served.scores[served.personal]
        away = np.abs(expit(scores.astype(np.float64)) - theirs)[known.present]
        ranks = rank_held_out(fitted.posts, scores, known)
        return cls(
            users=len(known.users),
            farthest=float(away.max(initial=0.0)),
            moved=int((ranks != served.ranks[served.personal]).sum()),
            served=Quality.of(served.ranks[served.personal]),
            trained=Quality.of(ranks),
        )

    def problem(self, tolerance: float) -> str:
        """Describes a difference above the tolerance; empty without one."""
        if self.farthest <= tolerance:
            return ""
        far = f"the server's probabilities are up to {self.farthest:g} off the trainer's"
        return f"{far}, more than {tolerance:g}"

    def text(self) -> str:
        """The differences in a sentence."""
        return (
            f"{self.users:,} users by the model: the server's hr@{TOP}={self.served.hit_ratio:.4f} "
            f"ndcg@{TOP}={self.served.ndcg:.4f}, the trainer's hr@{TOP}={self.trained.hit_ratio:.4f} "
            f"ndcg@{TOP}={self.trained.ndcg:.4f}; probabilities differ by {self.farthest:.1e} at most, and "
            f"{self.moved:,} users' ranks"
        )


async def ranks_through_server(
    client: AsyncRankingClient, dataset: Dataset, held_out: HeldOut
) -> ServedRanks:
    """Has the server rank the candidates of every pair, in the largest possible batches.

    Raises:
        RuntimeError: A response is degraded, or lacks the held-out item.
    """
    users = dataset.user_ids[held_out.users].tolist()
    posts = np.where(held_out.present, dataset.posts.ids[held_out.candidates], ABSENT)
    requests = [
        RankRequest(user, items[present].tolist(), cache_policy=CachePolicy.BYPASS)
        for user, items, present in zip(users, posts, held_out.present, strict=True)
    ]
    step = requests_at_once(posts.shape[1])
    scores = np.full(posts.shape, np.nan, np.float32)
    ranks, personal = [], []
    for start in track(range(0, len(requests), step), "ranking through the server"):
        some = requests[start : start + step]
        for row, (request, answer) in enumerate(
            zip(some, await answers_of(client, some), strict=True), start
        ):
            ranks.append(answer.post_ids.index(first_candidate(request)))
            personal.append(answer.ranker == Ranker.NEUCF)
            given = dict(zip(answer.post_ids, answer.scores, strict=True))
            at = np.flatnonzero(held_out.present[row])
            scores[row, at] = [given.get(post, np.nan) for post in posts[row, at].tolist()]
    return ServedRanks(np.array(ranks, np.int64), np.array(personal, np.bool_), scores)


def requests_at_once(candidates: int) -> int:
    """Number of requests of a call, with some number of candidates each."""
    return max(1, min(USERS_AT_ONCE, CANDIDATES_AT_ONCE // candidates))


async def answers_of(client: AsyncRankingClient, requests: list[RankRequest]) -> list[Ranking]:
    """The responses of a batch, retried while one is degraded, or lacks its first candidate.

    On a busy machine the heuristic may answer in place of the model.

    Raises:
        RuntimeError: One is still degraded after TRIES calls.
    """
    for _ in range(TRIES):
        answers = [
            answer
            for request, answer in zip(requests, await client.batch_rank(requests, timeout=60), strict=True)
            if isinstance(answer, Ranking)
            and not answer.degraded_reason
            and first_candidate(request) in answer.post_ids
        ]
        if len(answers) == len(requests):
            return answers
    missing, first, last = len(requests) - len(answers), requests[0].user_id, requests[-1].user_id
    raise RuntimeError(f"{missing} of the users {first} to {last} got no complete response")


def first_candidate(request: RankRequest) -> int:
    return next(iter(request.post_ids))

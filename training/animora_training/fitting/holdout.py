"""The hold-out by which a fit chooses, and that tells how good it is."""

from dataclasses import dataclass

import numpy as np

from animora_artifact import Vocabulary
from animora_training.data.dataset import BoolArray, Dataset, IntArray, Interactions
from animora_training.data.split import HeldOut, leave_one_out
from animora_training.errors import NothingToLearn
from animora_training.fitting.export import FoldedNeuCF
from animora_training.judging.baselines import heuristic_scores, popularity_scores
from animora_training.judging.evaluation import TOP, PostScorer, Quality, rank_held_out
from animora_training.judging.measures import before_chances
from animora_training.judging.metrics import Scores
from animora_training.judging.recommender import Recommender
from animora_training.learning.config import FitConfig
from animora_training.learning.network import NeuCF

# More negatives than a report speaks of make the choice surer, more users than these do not.
CHOOSING_NEGATIVES = 999
MAX_USERS = 20_000


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Pairs that are kept from training, one half of whose users choose and the other half report.

    So that the choice does not flatter the report.

    Attributes:
        dataset: Everything.
        training: What is left to train on.
        held_out: The pairs, each among CHOOSING_NEGATIVES.
        choosing: bool (m), whose pairs choose.
        negatives: How many of the candidates the reported quality speaks of.
    """

    dataset: Dataset
    training: Interactions
    held_out: HeldOut
    choosing: BoolArray
    negatives: int

    @classmethod
    def of(cls, dataset: Dataset, config: FitConfig) -> "HoldOut":
        """By the configuration's seed.

        Raises:
            NothingToLearn: Fewer than two users have interacted with two posts.
        """
        rng = np.random.default_rng(config.seed)
        negatives = max(CHOOSING_NEGATIVES, config.holdout_negatives)
        split = leave_one_out(dataset, negatives, rng, at_most=MAX_USERS)
        users = len(split.held_out.users)
        if users < 2:
            raise NothingToLearn(
                "fewer than two users have interacted with two or more posts, so nothing can be held out: "
                "import more likes and comments"
            )
        choosing = np.zeros(users, np.bool_)
        choosing[rng.permutation(users)[: users // 2]] = True
        return cls(dataset, split.training, split.held_out, choosing, config.holdout_negatives)

    @property
    def reported(self) -> HeldOut:
        """The pairs of the users who report, among as many negatives as are asked for."""
        kept = self.held_out.take(~self.choosing)
        return HeldOut(kept.users, kept.candidates[:, : 1 + self.negatives], kept.times)

    def judge(self, network: NeuCF, vocabulary: Vocabulary) -> tuple[float, Quality]:
        """What `choice` gives for one half of the users, and the quality for the other."""
        scorer = PostScorer(FoldedNeuCF(network).eval(), vocabulary, self.dataset)
        reported = self.reported
        return self.choice(scorer), Quality.of(self._ranks(scorer.candidates(reported), reported))

    def choice(self, recommender: Recommender) -> float:
        """Expected NDCG@10 among as many negatives as are reported, for the users who choose.

        Expected, given the rank among many more: surer than a draw (see `judging.measures`).
        """
        held_out = self.held_out.take(self.choosing)
        scores = recommender.grid(held_out.users, np.maximum(held_out.candidates, 0))
        ranks = self._ranks(scores, held_out)
        total = held_out.present[:, 1:].sum(axis=1)
        chances = before_chances(ranks, total, self.negatives)
        gained = [chance / np.log2(place + 2) for place, chance in zip(range(TOP), chances, strict=False)]
        return float(np.sum(gained, axis=0).mean())

    def baselines(self) -> dict[str, Quality]:
        """The quality of popularity and of the server's heuristic, which see what the network sees."""
        events = self.dataset.events
        kept = np.isin(
            self.dataset.pair_keys(events.users, events.posts),
            self.dataset.pair_keys(self.training.users, self.training.posts),
        )
        training, reported, posts = events.take(kept), self.reported, self.dataset.posts
        return {
            name: Quality.of(self._ranks(scores(posts, training, reported), reported))
            for name, scores in (("popularity", popularity_scores), ("heuristic", heuristic_scores))
        }

    def _ranks(self, scores: Scores, held_out: HeldOut) -> IntArray:
        return rank_held_out(self.dataset.posts, scores, held_out)

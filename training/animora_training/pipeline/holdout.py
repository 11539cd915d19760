"""The hold-out by which a fit chooses, and that tells how good it is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np

from animora_artifact import Vocabulary
from animora_training.data.dataset import (
    BoolArray,
    Dataset,
    DoubleArray,
    IntArray,
    Interactions,
    Rows,
    collect,
)
from animora_training.data.split import (
    HeldOut,
    Split,
    Without,
    latest_pairs,
    none_of,
    pairs_of_each,
    split_off,
)
from animora_training.errors import NothingToLearn
from animora_training.evaluation.baselines import heuristic_scores, popularity_scores
from animora_training.evaluation.calibration import LogitScaling
from animora_training.evaluation.measures import before_chances, measures_of_ranks
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.network_ranking import (
    FEWEST_NEGATIVES,
    TOP,
    PostScorer,
    Quality,
    rank_held_out,
)
from animora_training.evaluation.recommender import Recommender
from animora_training.memory import memory_for
from animora_training.modeling.config import FitConfig
from animora_training.modeling.network import NeuCF
from animora_training.pipeline.export import FoldedNeuCF
from animora_training.pipeline.likelihoods import Likelihoods, Represented
from animora_training.pipeline.record import ReliabilityBin
from animora_training.pipeline.seen_pairs import SeenPairs

# More negatives than a report speaks of make the choice surer, more users than these do not; where users are
# few, several pairs of each who chooses do, as if there were so many users.
CHOOSING_NEGATIVES = 299
MAX_USERS = 20_000
FEW_USERS = 10_000
# Somebody has to choose and somebody to report. Since an earlier fit, only a handful may have done anything:
# so few would say nothing.
FEWEST_USERS, FEWEST_UNSEEN = 2, 100
CANDIDATES_AT_ONCE = 1 << 16

Metrics = Mapping[str, float]
"""By name, such as "ndcg@10"."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a network was found to be.

    Attributes:
        choice: Of the users who choose, see `FitHoldOut.choice`.
        metrics: Of the users who report; empty where nobody can.
        reliability: Of the probabilities that the network gives.
        ranks: Where it put each of their posts, 0 for the best.
        scaling: What makes its probabilities right for the users who choose.
        published: How right they are then for the users who report, if there are any.
        share: Of the way from the network before training to what training came to.
    """

    choice: Quality
    metrics: Metrics
    reliability: tuple[ReliabilityBin, ...]
    ranks: tuple[int, ...] = ()
    scaling: LogitScaling = field(default_factory=LogitScaling)
    published: Likelihoods | None = None
    share: float = 1.0


@dataclass(frozen=True)
class FitHoldOut:
    """Pairs that are kept from training, one half of whose users choose and the other half report.

    So that the choice does not flatter the report. Of a user who reports there is one pair, of one who
    chooses there may be several. A pair chooses beside one other post or more; it reports beside
    FEWEST_NEGATIVES, for beside fewer every order looks good.

    Attributes:
        dataset: Everything.
        split: The pairs that are held out, each among at least as many others as are reported, and the rest.
        choosing: bool (m), which pairs are of a user who chooses.
        negatives: How many of the candidates the reported quality speaks of.
        in_memory: Events at most that the baselines count.
    """

    dataset: Dataset
    split: Split
    choosing: BoolArray
    negatives: int
    in_memory: int

    @classmethod
    def of(cls, dataset: Dataset, config: FitConfig) -> "FitHoldOut":
        """By the configuration's seed.

        Raises:
            NothingToLearn: Fewer than two users have interacted with two posts, or there is nothing that
                their posts could be ranked among.
        """
        negatives = max(CHOOSING_NEGATIVES, config.holdout_negatives)
        holdout = cls._of(dataset, config, negatives, pairs_of_each(dataset, FEW_USERS), none_of)
        if holdout.users < FEWEST_USERS:
            raise NothingToLearn(
                "fewer than two users have interacted with two or more posts, so nothing can be held out: "
                "import more likes and comments"
            )
        if not len(holdout.choosers):
            raise NothingToLearn(
                "no held-out post can be ranked among others: nobody has left a post untouched that existed "
                "when they liked their latest one. Import more posts, or check that animora.posts.created_at "
                "is not later than the likes"
            )
        return holdout

    @classmethod
    def unseen(cls, dataset: Dataset, config: FitConfig, seen: SeenPairs) -> "FitHoldOut | None":
        """By the configuration's seed, of pairs that an earlier fit has not learnt from.

        None where fewer than FEWEST_UNSEEN users have such a pair, beside another one. There is nothing to
        choose then, and no more negatives than a report speaks of.
        """
        negatives = config.holdout_negatives
        holdout = cls._of(dataset, config, negatives, 1, lambda rows: seen.contains(dataset, rows))
        return holdout if holdout.users >= FEWEST_UNSEEN and len(holdout.choosers) else None

    @classmethod
    @memory_for("the hold-out", "lower holdout_negatives by --set")
    def _of(
        cls,
        dataset: Dataset,
        config: FitConfig,
        negatives: int,
        most: int,
        refused: Callable[[Rows], BoolArray],
    ) -> "FitHoldOut":
        rng = np.random.default_rng(config.seed)
        latest = latest_pairs(dataset, rng, most, refused).of_some(MAX_USERS, rng)
        users = np.unique(latest.users)
        choosing = np.isin(latest.users, rng.permutation(users)[: len(users) // 2])
        kept = choosing | (latest.places == 0)
        split = split_off(dataset, latest.take(kept), negatives, rng)
        return cls(dataset, split, choosing[kept], config.holdout_negatives, config.pairs_in_memory)

    @property
    def users(self) -> int:
        """How many choose and report."""
        return len(np.unique(self.held_out.users))

    @property
    def training(self) -> Without:
        """What is left to train on, read piece by piece."""
        return self.split.remaining

    @property
    def held_out(self) -> HeldOut:
        """The pairs, each among at least as many others as are reported."""
        return self.split.held_out

    @property
    def reported(self) -> HeldOut:
        """The pairs of the users who report, among as many negatives as are asked for.

        Those with too few are left out, see `dropped`.
        """
        kept = self.held_out.take(~self.choosing)
        asked = HeldOut(kept.users, kept.candidates[:, : 1 + self.negatives], kept.times)
        return asked.beside(min(FEWEST_NEGATIVES, self.negatives))

    @property
    def dropped(self) -> int:
        """How many users would report, had their posts enough others to be ranked among."""
        return int((~self.choosing).sum()) - len(self.reported.users)

    @property
    def choosers(self) -> IntArray:
        """Rows int64 (n) of the held-out pairs that choose."""
        return np.flatnonzero(self.choosing & (self.held_out.negatives > 0))

    @cached_property
    def _calibrating(self) -> Represented:
        """The pairs by which the probabilities are made right; counted once for all epochs."""
        return Represented.calibrating(self.dataset, self.held_out.take(self.choosers))

    @cached_property
    def _represented(self) -> Represented:
        """The reported pairs; counted once for all epochs."""
        return Represented.of(self.dataset, self.reported)

    @memory_for("judging the hold-out", "lower holdout_negatives, hidden, factors or mlp_embedding by --set")
    def judge(self, network: NeuCF, vocabulary: Vocabulary) -> Judged:
        """What `choice` gives for one half of the users, and what was measured for the other.

        Raises:
            NotFinite: The network's scores are not finite.
            OutOfMemory: There is no memory for the candidates' scores.
        """
        scorer = PostScorer(FoldedNeuCF(network).eval(), vocabulary, self.dataset)
        reported = self.reported
        scaling = self._calibrating.scaling(scorer)
        if not len(reported.users):
            return Judged(self.choice(scorer), {}, (), scaling=scaling)
        scores = scorer.candidates(reported)
        given = Likelihoods.of(self._represented.sample(scores))
        return Judged(
            choice=self.choice(scorer),
            metrics={**self._metrics(scores, reported), "calibration_error": given.error},
            reliability=given.reliability,
            ranks=tuple(self._ranks(scores, reported).tolist()),
            scaling=scaling,
            published=Likelihoods.of(self._represented.sample(scaling.of(scores))),
        )

    def choice(self, recommender: Recommender) -> Quality:
        """Expected quality among as many negatives as are reported, mean over the users who choose.

        Expected, given the rank among many more: surer than a draw (see `judging.measures`).
        """
        rows = self.choosers
        at_once = -(-CANDIDATES_AT_ONCE // self.held_out.candidates.shape[1])
        parts = [
            self._chances(recommender, rows[start : start + at_once])
            for start in range(0, len(rows), at_once)
        ]
        chances = np.concatenate(parts, axis=1)  # (10, m)
        gains = 1.0 / np.log2(np.arange(len(chances)) + 2.0)
        users = self.held_out.users[rows]
        weights = 1.0 / np.bincount(users)[users]  # every user counts the same
        hits, ndcg = np.average((chances.sum(axis=0), gains @ chances), axis=1, weights=weights)
        return Quality(float(hits), float(ndcg))

    def _chances(self, recommender: Recommender, rows: IntArray) -> DoubleArray:
        """Float64 (10, m): how likely the held-out posts of some rows (m) take each place."""
        held_out = self.held_out.take(rows)
        scores = recommender.grid(held_out.users, np.maximum(held_out.candidates, 0))
        total = held_out.present[:, 1:].sum(axis=1)
        chances = before_chances(self._ranks(scores, held_out), total, self.negatives)
        return np.array(list(islice(chances, TOP)))

    def baselines(self) -> dict[str, Metrics]:
        """What popularity and the server's heuristic are, which see what the network sees.

        Empty where nobody reports.
        """
        reported, posts = self.reported, self.dataset.posts
        if not len(reported.users):
            return {}
        training = self._events()
        return {
            name: self._metrics(scores(posts, training, reported), reported)
            for name, scores in (("popularity", popularity_scores), ("heuristic", heuristic_scores))
        }

    def heuristic_ranks(self) -> IntArray:
        """Where the server's heuristic puts the reported pairs, int64 (m), 0 for the best."""
        reported = self.reported
        return self._ranks(heuristic_scores(self.dataset.posts, self._events(), reported), reported)

    def _events(self) -> Interactions:
        """All events but those of held-out pairs; of very many, those of a share of the users."""
        events = self.split.remaining_events(self.dataset)
        share = min(1.0, self.in_memory / max(len(events), 1))
        return collect(_users_of(events, share), len(self.dataset.user_ids))

    def _metrics(self, scores: Scores, held_out: HeldOut) -> Metrics:
        """Means over users: hit ratio, NDCG, reciprocal rank, and the area under the ROC curve."""
        measures = measures_of_ranks(self._ranks(scores, held_out), (TOP,))
        drawn = held_out.present[:, 1:]
        above = (scores[:, 1:] > scores[:, :1]) + (scores[:, 1:] == scores[:, :1]) / 2
        lost = (above * drawn).sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
        means = {name: float(measures[name].mean()) for name in (f"hr@{TOP}", f"ndcg@{TOP}", "mrr")}
        return {**means, "auc": float(1.0 - lost.mean())}

    def _ranks(self, scores: Scores, held_out: HeldOut) -> IntArray:
        return rank_held_out(self.dataset.posts, scores, held_out)


def _users_of(events: Without, share: float) -> Iterator[Rows]:
    """The events of about a share of all users, evenly spread."""
    for chunk in events.chunks():
        numbers = chunk.users * share
        yield chunk.take(np.floor(numbers + share) > np.floor(numbers))

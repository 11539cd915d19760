"""The hold-out of a fit: half of its users choose settings and epochs, the other half report metrics."""

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
    ExceptRows,
    HeldOut,
    Split,
    exclude_none,
    hold_out_pairs,
    latest_pairs,
    pairs_of_each,
)
from animora_training.errors import NothingToLearn
from animora_training.evaluation.baselines import heuristic_scores, popularity_scores
from animora_training.evaluation.calibration import LogitScaling
from animora_training.evaluation.measures import hypergeometric_pmf, measures_of_ranks
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.network_ranking import (
    FEWEST_NEGATIVES,
    TOP,
    PostScorer,
    Quality,
    rank_held_out,
)
from animora_training.evaluation.recommender import Recommender
from animora_training.memory import explain_out_of_memory
from animora_training.modeling.config import FitConfig
from animora_training.modeling.network import NeuCF
from animora_training.pipeline.export import FoldedNeuCF
from animora_training.pipeline.holdout_calibration import CalibrationSummary, WeightedHoldOut
from animora_training.pipeline.record import ReliabilityBin
from animora_training.pipeline.seen_pairs import SeenPairs

# The choice uses more negatives than the report, for less variance. More than MAX_USERS users would not help;
# with fewer than FEW_USERS, several pairs of each selection user are held out.
SELECTION_NEGATIVES = 299
MAX_USERS = 20_000
FEW_USERS = 10_000
# At least one user chooses and one reports. A warm start needs more users with new pairs: fewer would give
# metrics without meaning.
FEWEST_USERS, FEWEST_UNSEEN = 2, 100
CANDIDATES_AT_ONCE = 1 << 16

Metrics = Mapping[str, float]
"""Metrics by name, such as "ndcg@10"."""


@dataclass(frozen=True, slots=True)
class HoldOutResult:
    """Evaluation of a network on the hold-out. The field names are stored in checkpoints.

    Attributes:
        choice: Quality for the selection users, see `FitHoldOut.choice`.
        metrics: Metrics for the reporting users; empty without any.
        reliability: Reliability of the network's own probabilities.
        ranks: Rank of each reported post, 0 for the best.
        scaling: Platt scaling fitted on the selection users.
        published: Calibration after the scaling, for the reporting users; None without any.
        share: Fraction of the way from the initial to the trained network, see `interpolation`.
    """

    choice: Quality
    metrics: Metrics
    reliability: tuple[ReliabilityBin, ...]
    ranks: tuple[int, ...] = ()
    scaling: LogitScaling = field(default_factory=LogitScaling)
    published: CalibrationSummary | None = None
    share: float = 1.0


@dataclass(frozen=True)
class FitHoldOut:
    """Pairs held out from training.

    Half of the users choose epochs and settings (selection users), the other half report metrics. The halves
    are disjoint so that the reported metrics are not biased by the choice. A reporting user has one held-out
    pair, a selection user may have several. A pair needs one negative to take part in the choice, and
    FEWEST_NEGATIVES to be reported: with fewer, any ranking looks good.

    Attributes:
        dataset: The whole data set.
        split: Held-out pairs with their negatives, and the remaining pairs.
        selection: bool (m), the pairs of selection users.
        negatives: Number of negatives in reported metrics.
        in_memory: Maximum number of events that the baselines count.
    """

    dataset: Dataset
    split: Split
    selection: BoolArray
    negatives: int
    in_memory: int

    @classmethod
    def of(cls, dataset: Dataset, config: FitConfig) -> "FitHoldOut":
        """Draws a hold-out with the seed of the configuration.

        Raises:
            NothingToLearn: Fewer than two users have interacted with two posts, or no held-out post has a
                negative.
        """
        negatives = max(SELECTION_NEGATIVES, config.holdout_negatives)
        holdout = cls._of(dataset, config, negatives, pairs_of_each(dataset, FEW_USERS), exclude_none)
        if holdout.users < FEWEST_USERS:
            raise NothingToLearn(
                "fewer than two users have interacted with two or more posts, so nothing can be held out: "
                "import more likes and comments"
            )
        if not len(holdout.selection_rows):
            raise NothingToLearn(
                "no held-out post can be ranked among others: nobody has left a post untouched that existed "
                "when they liked their latest one. Import more posts, or check that animora.posts.created_at "
                "is not later than the likes"
            )
        return holdout

    @classmethod
    def unseen(cls, dataset: Dataset, config: FitConfig, seen: SeenPairs) -> "FitHoldOut | None":
        """Draws a hold-out from pairs that an earlier fit was not trained on, for a warm start.

        Nothing is chosen in a warm start, so a pair gets as many negatives as are reported. Returns None if
        fewer than FEWEST_UNSEEN users have such a pair and another one.
        """
        negatives = config.holdout_negatives
        holdout = cls._of(dataset, config, negatives, 1, lambda rows: seen.contains(dataset, rows))
        return holdout if holdout.users >= FEWEST_UNSEEN and len(holdout.selection_rows) else None

    @classmethod
    @explain_out_of_memory("the hold-out", "lower holdout_negatives by --set")
    def _of(
        cls,
        dataset: Dataset,
        config: FitConfig,
        negatives: int,
        pairs_per_user: int,
        excluded: Callable[[Rows], BoolArray],
    ) -> "FitHoldOut":
        rng = np.random.default_rng(config.seed)
        latest = latest_pairs(dataset, rng, pairs_per_user, excluded).sample_users(MAX_USERS, rng)
        users = np.unique(latest.users)
        selection = np.isin(latest.users, rng.permutation(users)[: len(users) // 2])
        kept = selection | (latest.places == 0)
        split = hold_out_pairs(dataset, latest.take(kept), negatives, rng)
        return cls(dataset, split, selection[kept], config.holdout_negatives, config.pairs_in_memory)

    @property
    def users(self) -> int:
        """Number of users with a held-out pair."""
        return len(np.unique(self.held_out.users))

    @property
    def training(self) -> ExceptRows:
        """The remaining pairs, read in chunks."""
        return self.split.remaining

    @property
    def held_out(self) -> HeldOut:
        """The held-out pairs with all of their negatives."""
        return self.split.held_out

    @property
    def reported(self) -> HeldOut:
        """The pairs of the reporting users with `negatives` negatives each; see `dropped` for the rest."""
        pairs = self.held_out.take(~self.selection).limit_negatives(self.negatives)
        return pairs.with_negatives(min(FEWEST_NEGATIVES, self.negatives))

    @property
    def dropped(self) -> int:
        """Number of reporting users whose pair has too few negatives."""
        return int((~self.selection).sum()) - len(self.reported.users)

    @property
    def selection_rows(self) -> IntArray:
        """Rows int64 (n) of the held-out pairs that take part in the choice."""
        return np.flatnonzero(self.selection & (self.held_out.negatives > 0))

    @cached_property
    def _scaling_pairs(self) -> WeightedHoldOut:
        """The pairs that the Platt scaling is fitted on; weighted once for all epochs."""
        return WeightedHoldOut.for_scaling(self.dataset, self.held_out.take(self.selection_rows))

    @cached_property
    def _weighted_report(self) -> WeightedHoldOut:
        """The reported pairs; weighted once for all epochs."""
        return WeightedHoldOut.of(self.dataset, self.reported)

    @explain_out_of_memory(
        "evaluating the hold-out", "lower holdout_negatives, hidden, factors or mlp_embedding by --set"
    )
    def evaluate(self, network: NeuCF, vocabulary: Vocabulary) -> HoldOutResult:
        """Evaluates a network: `choice` for the selection users, all metrics for the reporting users.

        Raises:
            NotFinite: The network's scores are not finite.
            OutOfMemory: The scores of the candidates do not fit into memory.
        """
        scorer = PostScorer(FoldedNeuCF(network).eval(), vocabulary, self.dataset)
        reported = self.reported
        scaling = self._scaling_pairs.scaling(scorer)
        if not len(reported.users):
            return HoldOutResult(self.choice(scorer), {}, (), scaling=scaling)
        scores = scorer.candidates(reported)
        given = CalibrationSummary.of(self._weighted_report.sample(scores))
        return HoldOutResult(
            choice=self.choice(scorer),
            metrics={**self._metrics(scores, reported), "calibration_error": given.error},
            reliability=given.reliability,
            ranks=tuple(self._ranks(scores, reported).tolist()),
            scaling=scaling,
            published=CalibrationSummary.of(self._weighted_report.sample(scaling.of(scores))),
        )

    def choice(self, recommender: Recommender) -> Quality:
        """Expected HR@10 and NDCG@10 among `negatives` negatives, mean over the selection users.

        The expectation over all samples is computed from the rank among more negatives; it has less variance
        than one sample (see `evaluation.measures`).
        """
        rows = self.selection_rows
        at_once = -(-CANDIDATES_AT_ONCE // self.held_out.candidates.shape[1])
        parts = [
            self._chances(recommender, rows[start : start + at_once])
            for start in range(0, len(rows), at_once)
        ]
        chances = np.concatenate(parts, axis=1)  # (10, m)
        gains = 1.0 / np.log2(np.arange(len(chances)) + 2.0)
        users = self.held_out.users[rows]
        weights = 1.0 / np.bincount(users)[users]  # all users have the same weight
        hits, ndcg = np.average((chances.sum(axis=0), gains @ chances), axis=1, weights=weights)
        return Quality(float(hits), float(ndcg))

    def _chances(self, recommender: Recommender, rows: IntArray) -> DoubleArray:
        """Float64 (10, m): probability of each of the ten best ranks for the held-out posts of rows (m)."""
        held_out = self.held_out.take(rows)
        scores = recommender.grid(held_out.users, np.maximum(held_out.candidates, 0))
        total = held_out.present[:, 1:].sum(axis=1)
        chances = hypergeometric_pmf(self._ranks(scores, held_out), total, self.negatives)
        return np.array(list(islice(chances, TOP)))

    def baselines(self) -> dict[str, Metrics]:
        """Metrics of popularity and of the server's heuristic on the reported pairs; empty without any."""
        reported, posts = self.reported, self.dataset.posts
        if not len(reported.users):
            return {}
        training = self._events()
        return {
            name: self._metrics(scores(posts, training, reported), reported)
            for name, scores in (("popularity", popularity_scores), ("heuristic", heuristic_scores))
        }

    def heuristic_ranks(self) -> IntArray:
        """Ranks int64 (m) of the reported pairs by the server's heuristic, 0 for the best."""
        reported = self.reported
        return self._ranks(heuristic_scores(self.dataset.posts, self._events(), reported), reported)

    def _events(self) -> Interactions:
        """All events but those of held-out pairs; above `in_memory` those of a sample of the users."""
        events = self.split.remaining_events(self.dataset)
        share = min(1.0, self.in_memory / max(len(events), 1))
        return collect(_users_of(events, share), len(self.dataset.user_ids))

    def _metrics(self, scores: Scores, held_out: HeldOut) -> Metrics:
        """HR@10, NDCG@10, MRR and AUC, means over users."""
        measures = measures_of_ranks(self._ranks(scores, held_out), (TOP,))
        drawn = held_out.present[:, 1:]
        above = (scores[:, 1:] > scores[:, :1]) + (scores[:, 1:] == scores[:, :1]) / 2
        lost = (above * drawn).sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
        means = {name: float(measures[name].mean()) for name in (f"hr@{TOP}", f"ndcg@{TOP}", "mrr")}
        return {**means, "auc": float(1.0 - lost.mean())}

    def _ranks(self, scores: Scores, held_out: HeldOut) -> IntArray:
        return rank_held_out(self.dataset.posts, scores, held_out)


def _users_of(events: ExceptRows, share: float) -> Iterator[Rows]:
    """The events of a share of all users, evenly spread."""
    for chunk in events.chunks():
        numbers = chunk.users * share
        yield chunk.take(np.floor(numbers + share) > np.floor(numbers))

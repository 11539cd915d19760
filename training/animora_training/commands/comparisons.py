"""What `compare` can judge in, and the network that may be judged there without having seen the answers."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.network import load_network
from animora_training.commands.console import ShowProgress, show_epoch
from animora_training.commands.options import SplitKind
from animora_training.data.dataset import Dataset, Interactions
from animora_training.evaluation.cold_posts import (
    ColdReport,
    evaluate_cold_posts,
    hold_out_posts,
    newer_posts,
)
from animora_training.evaluation.comparison import NEUCF, Comparison, Tuning, compare
from animora_training.evaluation.evaluation_split import (
    EvaluationSplit,
    leave_one_out_split,
    ncf_split,
    time_ordered_split,
)
from animora_training.evaluation.network_ranking import TOP, AsServed, PostScorer
from animora_training.evaluation.tuning import Attempt
from animora_training.importers.ncf_evaluation import read_held_out
from animora_training.pipeline.refit import refit

TIME_SHARE = 0.9  # of the events are before the time split's moment
COLD_SHARE = 0.1  # of the posts are held out whole


@dataclass(frozen=True, slots=True)
class Setup:
    """What a judgement needs.

    Attributes:
        version: To be judged, or whose recipe is.
        dataset: All that the database shows.
        tuning: Of the baselines; its seed is that of the split, too.
        show: Told how far it is.
    """

    version: Artifact
    dataset: Dataset
    tuning: Tuning
    show: ShowProgress


@dataclass(frozen=True, slots=True)
class ComparisonOutcome:
    """What came out.

    Attributes:
        comparison: NeuCF beside the baselines; None where only cold posts were looked at.
        cold: How cold posts are ranked; None where they were not looked at, or nobody liked one.
        skipped: Test pairs that the database cannot show.
    """

    comparison: Comparison | None
    cold: ColdReport | None = None
    skipped: int = 0

    def as_json(self) -> dict[str, object]:
        """Everything as plain values, for a file."""
        content = {} if self.comparison is None else self.comparison.as_json()
        return content if self.cold is None else {**content, "cold_posts": self.cold.as_json()}


def evaluated_on_folder(setup: Setup, folder: Path) -> ComparisonOutcome:
    """The version itself, on a folder's test pairs, which never reach the database.

    Raises:
        InvalidInput: The folder holds no test pairs in the format.
        NothingToLearn: The database can show none of them.
        WidthMismatch: The posts' embeddings are of another width than the version's.
    """
    dataset = setup.dataset
    read = read_held_out(folder, dataset)
    exam = ncf_split(f"test pairs of {folder.name}", dataset, read.held_out)
    return ComparisonOutcome(_compare(setup, exam, _scorer(setup.version, dataset)), skipped=read.skipped)


def evaluated_on_split(setup: Setup, kind: SplitKind) -> ComparisonOutcome:
    """The version's recipe, fitted again on what a split leaves; the version itself has seen the rest.

    Raises:
        NothingToLearn: Nothing can be held out, or too little is left.
        InvalidInput: The version cannot be fitted again.
    """
    dataset, seed = setup.dataset, setup.tuning.seed
    if kind == SplitKind.COLD_POSTS:
        split = hold_out_posts(dataset, COLD_SHARE, np.random.default_rng(seed))
        events = dataset.events.take(~split.cold[dataset.events.posts])
        neucf = _fitted_again(setup, split.training, events)
        return ComparisonOutcome(None, evaluate_cold_posts(dataset, split, {NEUCF: neucf}))
    if kind == SplitKind.LEAVE_ONE_OUT:
        exam = leave_one_out_split(dataset, seed)
        return ComparisonOutcome(_compare(setup, exam, _fitted_again(setup, exam.training, exam.events)))
    exam, newer = time_ordered_split(dataset, seed, TIME_SHARE), newer_posts(dataset, TIME_SHARE)
    neucf = _fitted_again(setup, exam.training, exam.events)
    cold = evaluate_cold_posts(dataset, newer, {NEUCF: neucf}) if len(newer.relevant) else None
    return ComparisonOutcome(_compare(setup, exam, neucf), cold)


def _compare(setup: Setup, exam: EvaluationSplit, neucf: AsServed) -> Comparison:
    tried: dict[str, int] = {}

    def report(attempt: Attempt) -> None:
        tried[attempt.name] = tried.get(attempt.name, 0) + 1
        note = f"NDCG@{TOP} {attempt.ndcg:.4f} on its hold-out"
        setup.show(attempt.name, tried[attempt.name], None, note)

    return compare(setup.dataset, exam, neucf, setup.tuning, report)


def _fitted_again(setup: Setup, pairs: Interactions, events: Interactions) -> AsServed:
    known = replace(setup.dataset, pairs=pairs, events=events)
    return _scorer(refit(known, setup.version, partial(show_epoch, setup.show)), setup.dataset)


def _scorer(version: Artifact, dataset: Dataset) -> AsServed:
    """A version as it is served, on a data set's posts."""
    dimensions = version.manifest.dimensions
    fitted = dataset.with_widths(image=dimensions.image, caption=dimensions.caption)
    network = load_network(version.model, torch.device("cpu"))
    return AsServed(PostScorer(network, version.vocabulary, fitted))

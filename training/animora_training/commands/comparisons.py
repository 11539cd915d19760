"""The comparisons of `evaluate` and `compare`: their splits, the network to evaluate, and what is printed."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.network import load_network
from animora_training.commands.console import ShowProgress, output, show_epoch, to_json
from animora_training.commands.options import SplitKind
from animora_training.commands.tables import cold_remark, cold_table, comparison_table, remarks
from animora_training.data.dataset import Dataset, Interactions
from animora_training.errors import CannotWrite
from animora_training.evaluation.cold_posts import (
    ColdReport,
    evaluate_cold_posts,
    hold_out_posts,
    newer_posts,
)
from animora_training.evaluation.comparison import NEUCF, Comparison, Tuning, compare
from animora_training.evaluation.evaluation_split import (
    EvaluationSplit,
    latest_split,
    leave_one_out_split,
    ncf_split,
    time_ordered_split,
)
from animora_training.evaluation.network_ranking import TOP, AsServed, PostScorer, UserRanks
from animora_training.evaluation.plot import draw
from animora_training.evaluation.tuning import Attempt
from animora_training.importers.ncf_evaluation import read_held_out
from animora_training.pipeline.refit import refit

TIME_SHARE = 0.9  # share of the events before the moment of the time split
COLD_SHARE = 0.1  # share of the posts that are held out with all of their pairs


@dataclass(frozen=True, slots=True)
class Setup:
    """Inputs of a comparison.

    Attributes:
        version: The version to evaluate, or whose recipe is refitted.
        dataset: All data of the database.
        tuning: Tuning of the baselines; its seed is also that of the split.
        show: Shows progress.
    """

    version: Artifact
    dataset: Dataset
    tuning: Tuning
    show: ShowProgress


@dataclass(frozen=True, slots=True)
class ComparisonOutcome:
    """Result of `compare`.

    Attributes:
        comparison: NeuCF and the baselines; None if only cold posts were evaluated.
        cold: Evaluation on cold posts; None if it was not requested or nobody liked a cold post.
        skipped: Number of test pairs that are not in the database.
    """

    comparison: Comparison | None
    cold: ColdReport | None = None
    skipped: int = 0

    def as_json(self) -> dict[str, object]:
        """The result as plain values, for a JSON file."""
        content = {} if self.comparison is None else self.comparison.as_json()
        return content if self.cold is None else {**content, "cold_posts": self.cold.as_json()}


def evaluate_on_folder(setup: Setup, folder: Path) -> ComparisonOutcome:
    """Evaluates the version on the test pairs of a folder, which are not in the database.

    Raises:
        InvalidInput: The folder holds no valid test pairs.
        NothingToLearn: The database has none of their users and posts.
        WidthMismatch: The posts' embeddings have another width than the version's.
    """
    dataset = setup.dataset
    read = read_held_out(folder, dataset)
    split = ncf_split(f"test pairs of {folder.name}", dataset, read.held_out)
    return ComparisonOutcome(_compare(setup, split, _scorer(setup.version, dataset)), skipped=read.skipped)


def evaluate_on_split(setup: Setup, kind: SplitKind) -> ComparisonOutcome:
    """Refits the version's recipe on the training part of a split and evaluates it on the rest.

    The version itself was trained on all of the data, so it cannot be evaluated on a part of them.

    Raises:
        NothingToLearn: Nothing can be held out, or too little is left to train on.
        InvalidInput: The version's recipe cannot be refitted.
    """
    dataset, seed = setup.dataset, setup.tuning.seed
    if kind == SplitKind.COLD_POSTS:
        cold_split = hold_out_posts(dataset, COLD_SHARE, np.random.default_rng(seed))
        events = dataset.events.take(~cold_split.cold[dataset.events.posts])
        neucf = _refit_recipe(setup, cold_split.training, events)
        return ComparisonOutcome(None, evaluate_cold_posts(dataset, cold_split, {NEUCF: neucf}))
    if kind == SplitKind.LEAVE_ONE_OUT:
        split = leave_one_out_split(dataset, seed)
        return ComparisonOutcome(_compare(setup, split, _refit_recipe(setup, split.training, split.events)))
    split, newer = time_ordered_split(dataset, seed, TIME_SHARE), newer_posts(dataset, TIME_SHARE)
    neucf = _refit_recipe(setup, split.training, split.events)
    cold = evaluate_cold_posts(dataset, newer, {NEUCF: neucf}) if len(newer.relevant) else None
    return ComparisonOutcome(_compare(setup, split, neucf), cold)


def evaluate_on_latest(setup: Setup) -> ComparisonOutcome:
    """Refits the version's recipe without each user's latest interaction, which is then to be found.

    Raises:
        NothingToLearn: Nothing can be held out, or too little is left to train on.
        InvalidInput: The version's recipe cannot be refitted.
    """
    split = latest_split(setup.dataset, setup.tuning.seed)
    return ComparisonOutcome(_compare(setup, split, _refit_recipe(setup, split.training, split.events)))


def _compare(setup: Setup, split: EvaluationSplit, neucf: AsServed) -> Comparison:
    tried: dict[str, int] = {}

    def report(attempt: Attempt) -> None:
        tried[attempt.name] = tried.get(attempt.name, 0) + 1
        note = f"NDCG@{TOP} {attempt.ndcg:.4f} on its hold-out"
        setup.show(attempt.name, tried[attempt.name], None, note)

    return compare(setup.dataset, split, neucf, setup.tuning, report)


def _refit_recipe(setup: Setup, pairs: Interactions, events: Interactions) -> AsServed:
    known = replace(setup.dataset, pairs=pairs, events=events)
    return _scorer(refit(known, setup.version, partial(show_epoch, setup.show)), setup.dataset)


def _scorer(version: Artifact, dataset: Dataset) -> AsServed:
    """A scorer of the data set's posts by a version as it is served."""
    dimensions = version.manifest.dimensions
    fitted = dataset.with_widths(image=dimensions.image, caption=dimensions.caption)
    network = load_network(version.model, torch.device("cpu"))
    return AsServed(PostScorer(network, version.vocabulary, fitted))


def write_outcome(outcome: ComparisonOutcome, plot: Path | None, json_file: Path | None) -> None:
    """Writes the plot and the JSON file whose paths are given.

    Raises:
        CannotWrite: A file cannot be written.
    """
    try:
        if plot is not None and outcome.comparison is not None:
            draw(outcome.comparison, plot)
        if json_file is not None:
            json_file.write_text(to_json(outcome.as_json(), indent=1) + "\n")
    except OSError as error:
        raise CannotWrite(f"{error.filename}: {error.strerror}") from error


def print_outcome(outcome: ComparisonOutcome) -> None:
    """Prints tables and remarks."""
    if outcome.comparison is not None:
        output().print(comparison_table(outcome.comparison))
        for remark in remarks(outcome.comparison):
            output().print(remark, soft_wrap=True)
    if outcome.skipped:
        output().print(f"skipped {outcome.skipped:,} test pairs that are not in the database")
    if outcome.cold is not None:
        output().print(cold_table(outcome.cold))
        output().print(cold_remark(outcome.cold), soft_wrap=True)


def print_counts(artifact: Artifact, ranks: UserRanks, unknown: int) -> None:
    """Prints how many users were ranked and skipped; `unknown` users have no test pair in the database."""
    output().print(
        f"{artifact.manifest.version}: {len(ranks.ranks):,} users ranked; skipped {ranks.skipped:,} that the "
        f"model does not know and {unknown:,} whose test pair is not in the database"
    )

"""Builds the parts of a fit's record and of the manifest's metrics."""

from collections.abc import Mapping

import numpy as np

from animora_artifact.manifest import HEURISTIC, PARENT, STANDARD_ERROR, PairedDifference
from animora_training.data.dataset import Dataset, Embeddings
from animora_training.evaluation.network_ranking import Quality
from animora_training.modeling.trainer import Epoch
from animora_training.pipeline.checkpoint import FitState
from animora_training.pipeline.export import data_window
from animora_training.pipeline.held_out_ranks import HeldOutRanks
from animora_training.pipeline.holdout import FitHoldOut, HoldOutResult, Metrics
from animora_training.pipeline.record import EpochRecord, ReliabilityBin, Stage, TrainingData

NEUCF, FACTORISATION = "NeuCF", "its factorisation"
PREFIXES = {NEUCF: "", FACTORISATION: "factorisation_", PARENT: "parent_"}


def epoch_record(stage: Stage, epoch: Epoch, quality: Quality | None = None) -> EpochRecord:
    """Record of an epoch, with the quality of the network after it if it was evaluated."""
    return EpochRecord(
        stage=stage,
        epoch=epoch.number,
        loss=epoch.loss,
        learning_rate=epoch.learning_rate,
        hr10=quality.hit_ratio if quality else None,
        ndcg10=quality.ndcg if quality else None,
        seconds=epoch.seconds,
        pairs_per_second=epoch.pairs / max(epoch.seconds, 1e-9),
    )


def start_record(quality: Quality, seconds: float, pairs: int) -> EpochRecord:
    """Record of the factorisation, which processed `pairs` pairs, with its quality on the hold-out."""
    return EpochRecord(
        stage="factorisation",
        epoch=1,
        loss=None,
        learning_rate=None,
        hr10=quality.hit_ratio,
        ndcg10=quality.ndcg,
        seconds=seconds,
        pairs_per_second=pairs / max(seconds, 1e-9),
    )


def metrics(
    qualities: Mapping[str, Mapping[str, float]], holdout: FitHoldOut | None, evaluated: HeldOutRanks | None
) -> dict[str, float]:
    """Metrics for the manifest: those of NeuCF by name, those of other models with a prefix.

    Args:
        qualities: Metrics by model; empty if no user reports.
        holdout: The hold-out; without one there are no metrics.
        evaluated: NeuCF's ranks on the hold-out.
    """
    if holdout is None:
        return {}
    reported = holdout.reported
    kept = {"holdout_users": float(len(reported.users)), "holdout_dropped": float(holdout.dropped)}
    if len(reported.users):
        kept["holdout_candidates"] = round(reported.mean_candidates, 3)
    if evaluated is not None:
        kept[STANDARD_ERROR] = evaluated.standard_error
    for name, quality in qualities.items():
        prefix = PREFIXES.get(name, f"{name}_")
        kept.update({f"{prefix}{metric}": value for metric, value in quality.items()})
    return kept


def training_data(dataset: Dataset, holdout: FitHoldOut | None) -> TrainingData:
    """Describes the training data and the reporting users of the hold-out."""
    reported = None if holdout is None else holdout.reported
    pairs, posts = dataset.pairs, dataset.posts
    window = data_window(pairs)
    return TrainingData(
        start=window.start,
        end=window.end,
        users=int(np.count_nonzero(np.diff(pairs.offsets))),
        posts=len(posts.ids),
        interactions=len(pairs),
        image_share=_share(posts.image),
        caption_share=_share(posts.caption),
        judged_users=0 if reported is None else len(reported.users),
        dropped_users=0 if holdout is None else holdout.dropped,
        candidates=reported.mean_candidates if reported is not None and len(reported.users) else None,
    )


def held_out_ranks(holdout: FitHoldOut | None, state: FitState, chosen: int) -> HeldOutRanks | None:
    """Ranks of the reported pairs by the network of the chosen epoch; None if no user reports."""
    if holdout is None or not state.results[chosen].ranks:
        return None
    return HeldOutRanks(holdout, np.array(state.results[chosen].ranks, np.int64))


def reliability(state: FitState, chosen: int) -> tuple[ReliabilityBin, ...]:
    """Reliability of the published probabilities of the chosen epoch; empty if no user reports."""
    published = state.results[chosen].published if state.results else None
    return () if published is None else published.reliability


def differences(evaluated: HeldOutRanks | None, state: FitState, warm: bool) -> dict[str, PairedDifference]:
    """Comparisons with the heuristic and, in a warm start, with the parent version."""
    if evaluated is None:
        return {}
    found = {HEURISTIC: evaluated.compare_with_heuristic()}
    if warm:
        start = np.array(state.results[0].ranks, np.int64)
        found[PARENT] = evaluated.compare(start, "held-out pairs that its parent has not learnt from")
    return found


def qualities_of(holdout: FitHoldOut, state: FitState, chosen: int, warm: bool) -> dict[str, Metrics]:
    """Metrics of NeuCF, of its initialization and of the baselines; empty if no user reports.

    Args:
        holdout: The hold-out.
        state: State with the results before the first epoch and after each one.
        chosen: The chosen epoch.
        warm: Whether the fit is a warm start.
    """
    results = state.results
    if not results[chosen].metrics:
        return {}
    start = PARENT if warm else FACTORISATION
    qualities = {NEUCF: _published(results[chosen]), start: _published(results[0]), **holdout.baselines()}
    return {
        name: {metric: round(value, 6) for metric, value in measured.items()}
        for name, measured in qualities.items()
    }


def _published(result: HoldOutResult) -> Metrics:
    """Metrics of a result, with the calibration error after scaling."""
    error = {} if result.published is None else {"calibration_error": result.published.error}
    return {**result.metrics, **error}


def _share(embeddings: Embeddings) -> float:
    """The share of embeddings (n, d) that are present, that is not all zeros."""
    return float(embeddings.any(axis=1).mean()) if embeddings.size else 0.0

"""What happened in a fit, as its record and its version's manifest keep it."""

from collections.abc import Mapping

import numpy as np

from animora_artifact.manifest import HEURISTIC, PARENT, STANDARD_ERROR, PairedDifference
from animora_training.data.dataset import Dataset, Embeddings
from animora_training.evaluation.network_ranking import Quality
from animora_training.modeling.trainer import Epoch
from animora_training.pipeline.checkpoint import FitState
from animora_training.pipeline.export import data_window
from animora_training.pipeline.held_out_ranks import HeldOutRanks
from animora_training.pipeline.holdout import FitHoldOut, Judged, Metrics
from animora_training.pipeline.record import EpochRecord, ReliabilityBin, Stage, TrainingData

NEUCF, FACTORISATION = "NeuCF", "its factorisation"
PREFIXES = {NEUCF: "", FACTORISATION: "factorisation_", PARENT: "parent_"}


def epoch_record(stage: Stage, epoch: Epoch, judged: Quality | None = None) -> EpochRecord:
    """An epoch, and what the network was judged to be after it, if it was."""
    return EpochRecord(
        stage=stage,
        epoch=epoch.number,
        loss=epoch.loss,
        learning_rate=epoch.learning_rate,
        hr10=judged.hit_ratio if judged else None,
        ndcg10=judged.ndcg if judged else None,
        seconds=epoch.seconds,
        pairs_per_second=epoch.pairs / max(epoch.seconds, 1e-9),
    )


def start_record(judged: Quality, seconds: float, pairs: int) -> EpochRecord:
    """The factorisation as a whole, which went through so many pairs, and what it was judged to be."""
    return EpochRecord(
        stage="factorisation",
        epoch=1,
        loss=None,
        learning_rate=None,
        hr10=judged.hit_ratio,
        ndcg10=judged.ndcg,
        seconds=seconds,
        pairs_per_second=pairs / max(seconds, 1e-9),
    )


def metrics(
    qualities: Mapping[str, Mapping[str, float]], holdout: FitHoldOut | None, evaluated: HeldOutRanks | None
) -> dict[str, float]:
    """As a manifest keeps them: NeuCF's by their own names, others' with a prefix; none without a hold-out.

    Args:
        qualities: By what was judged; empty where no user of the hold-out reports.
        holdout: On which.
        evaluated: NeuCF's ranks there.
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
    """What was learnt from, and for whom of the hold-out the qualities speak."""
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
    """Where the network of the chosen epoch ranked the reported pairs; None where nobody reports."""
    if holdout is None or not state.judged[chosen].ranks:
        return None
    return HeldOutRanks(holdout, np.array(state.judged[chosen].ranks, np.int64))


def reliability(state: FitState, chosen: int) -> tuple[ReliabilityBin, ...]:
    """Of the published probabilities of the chosen epoch; empty where nobody reports."""
    published = state.judged[chosen].published if state.judged else None
    return () if published is None else published.reliability


def differences(evaluated: HeldOutRanks | None, state: FitState, warm: bool) -> dict[str, PairedDifference]:
    """What was trained beside the heuristic, and beside what it started from where that is an earlier fit."""
    if evaluated is None:
        return {}
    found = {HEURISTIC: evaluated.beside_heuristic()}
    if warm:
        start = np.array(state.judged[0].ranks, np.int64)
        found[PARENT] = evaluated.beside(start, "held-out pairs that its parent has not learnt from")
    return found


def qualities_of(holdout: FitHoldOut, state: FitState, chosen: int, warm: bool) -> dict[str, Metrics]:
    """What the fit is about, what it started from, and the baselines; empty where nobody reports.

    Args:
        holdout: By which was judged.
        state: With what was judged before the first epoch and after each.
        chosen: The epoch that the fit is about.
        warm: Whether it started from an earlier fit.
    """
    judged = state.judged
    if not judged[chosen].metrics:
        return {}
    start = PARENT if warm else FACTORISATION
    qualities = {NEUCF: _published(judged[chosen]), start: _published(judged[0]), **holdout.baselines()}
    return {
        name: {metric: round(value, 6) for metric, value in measured.items()}
        for name, measured in qualities.items()
    }


def _published(judged: Judged) -> Metrics:
    """What was measured, of the probabilities as they are published."""
    error = {} if judged.published is None else {"calibration_error": judged.published.error}
    return {**judged.metrics, **error}


def _share(embeddings: Embeddings) -> float:
    """The share of embeddings (n, d) that are there."""
    return float(embeddings.any(axis=1).mean()) if embeddings.size else 0.0

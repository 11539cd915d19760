"""What happened in a fit, as its record and its version's manifest keep it."""

from collections.abc import Mapping

import numpy as np

from animora_artifact.manifest import PARENT, STANDARD_ERROR
from animora_training.data.dataset import Dataset, Embeddings
from animora_training.fitting.export import data_window
from animora_training.fitting.holdout import HoldOut
from animora_training.fitting.paired import HeldOutRanks
from animora_training.fitting.record import EpochRecord, Stage, TrainingData
from animora_training.judging.evaluation import Quality
from animora_training.learning.trainer import Epoch

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
    qualities: Mapping[str, Mapping[str, float]], holdout: HoldOut | None, evaluated: HeldOutRanks | None
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


def training_data(dataset: Dataset, holdout: HoldOut | None) -> TrainingData:
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


def _share(embeddings: Embeddings) -> float:
    """The share of embeddings (n, d) that are there."""
    return float(embeddings.any(axis=1).mean()) if embeddings.size else 0.0

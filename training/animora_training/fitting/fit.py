"""A fit: how long to train is chosen on a hold-out, then everything is trained for as long."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import numpy as np
import torch

from animora_artifact import Artifact
from animora_training.data.dataset import Dataset, Embeddings
from animora_training.fitting.checkpoint import Checkpoints, FitState
from animora_training.fitting.export import Origin, data_window, export
from animora_training.fitting.holdout import HoldOut
from animora_training.fitting.record import (
    EpochRecord,
    Host,
    RunRecord,
    Software,
    Stage,
    TrainingData,
)
from animora_training.fitting.regularisation import tuned_regularisation
from animora_training.judging.evaluation import TOP, Quality
from animora_training.learning.config import FitConfig
from animora_training.learning.factorisation import factorize
from animora_training.learning.network import NeuCF
from animora_training.learning.ranks import Ranks
from animora_training.learning.start import new_start
from animora_training.learning.trainer import Epoch, Trainer
from animora_training.learning.training_set import TrainingSet, training_set

NEUCF, START = "NeuCF", "its factorisation"
PREFIXES = {NEUCF: "", START: "factorisation_"}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a fit runs, and who watches.

    Attributes:
        created_at: When the version is made.
        device: Where the network is trained.
        ranks: The processes that share the work.
        checkpoints: Where the fit writes down how far it is.
        on_epoch: Told of every epoch, and how many of its stage there will be at most.
    """

    created_at: datetime
    device: torch.device
    ranks: Ranks
    checkpoints: Checkpoints
    on_epoch: Callable[[EpochRecord, int], None]


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted version and what is known about it."""

    artifact: Artifact
    record: RunRecord


def fit(dataset: Dataset, config: FitConfig, surroundings: Surroundings) -> Fit:
    """Chooses the number of epochs on a hold-out, then trains on all interactions.

    Goes on from the latest checkpoint. Every process of several gets the version.

    Args:
        dataset: All interactions.
        config: The recipe.
        surroundings: Where it runs.

    Raises:
        NothingToLearn: There are too few interactions.
    """
    state = surroundings.checkpoints.load()
    holdout = HoldOut.of(dataset, config)
    if state.stage == "hold-out":
        _judge(holdout, config, state, surroundings)
        state.stage, state.trainer = "refit", None
        surroundings.checkpoints.save(state, None)
    chosen = int(np.argmax(state.choosing))
    data = training_set(dataset, dataset.pairs)
    trainer = _trainer(data, config, state, surroundings)
    for epoch in islice(_epochs(trainer, state, surroundings), chosen - trainer.position.epoch):
        _observe(state, surroundings, _record("refit", epoch, None, None), chosen)
        surroundings.checkpoints.save(state, trainer)
    qualities = {NEUCF: state.reported[chosen], START: state.reported[0], **holdout.baselines()}
    judged_users = int((~holdout.choosing).sum())
    origin = Origin(
        created_at=surroundings.created_at,
        hyperparameters={
            **config.hyperparameters(),
            "als_regularisation": state.regularisation or 0.0,
            "epochs": chosen,
        },
        metrics=_metrics(qualities, judged_users),
    )
    artifact = export(trainer.network(), data, dataset.pairs, origin)
    record = RunRecord(
        version=artifact.manifest.version,
        created_at=origin.created_at,
        parent=None,
        seed=config.seed,
        configuration=origin.hyperparameters,
        data=_training_data(dataset, judged_users),
        epochs=tuple(state.epochs),
        chosen_epoch=chosen,
        stopped="early stopping" if len(state.choosing) <= config.max_epochs else "all epochs",
        qualities={name: _by_metric(quality) for name, quality in qualities.items()},
        software=Software.here(),
        host=Host.here(surroundings.device),
    )
    return Fit(artifact, record)


def _judge(holdout: HoldOut, config: FitConfig, state: FitState, surroundings: Surroundings) -> None:
    """Trains without the held-out pairs and stops when they are ranked no better for a while."""
    data = training_set(holdout.dataset, holdout.training)
    ranks = surroundings.ranks
    if state.regularisation is None and config.factorisation == "als":
        state.regularisation = config.als_regularisation or ranks.once(
            lambda: tuned_regularisation(holdout, data, config)
        )
    trainer = _trainer(data, config, state, surroundings)

    def judge(network: NeuCF) -> None:
        choice, quality = ranks.once(lambda: holdout.judge(network, data.vocabulary))
        state.choosing.append(choice)
        state.reported.append(quality)

    if not state.choosing:
        judge(trainer.network())
    for epoch in _epochs(trainer, state, surroundings):
        judge(trainer.network())
        record = _record("hold-out", epoch, state.reported[-1].hit_ratio, state.choosing[-1])
        _observe(state, surroundings, record, config.max_epochs)
        surroundings.checkpoints.save(state, trainer)
        if _ended(state, config):
            return


def _ended(state: FitState, config: FitConfig) -> bool:
    epoch = len(state.choosing) - 1
    return epoch >= config.max_epochs or epoch - int(np.argmax(state.choosing)) >= config.patience


def _trainer(data: TrainingSet, config: FitConfig, state: FitState, surroundings: Surroundings) -> Trainer:
    """A trainer at the latest checkpoint of the stage, or at its start."""
    ranks, factorisation, regularisation = surroundings.ranks, None, state.regularisation
    if regularisation is not None and state.trainer is None:
        factorisation = ranks.once(lambda: factorize(data, config, regularisation))
    device = surroundings.device
    trainer = Trainer(data.to(device), config, new_start(data, config, factorisation).to(device), ranks)
    if state.trainer is not None:
        trainer.restore(state.trainer)
        state.trainer = None
    return trainer


def _epochs(trainer: Trainer, state: FitState, surroundings: Surroundings) -> Iterator[Epoch]:
    return trainer.epochs(lambda: surroundings.checkpoints.save_now_and_then(state, trainer))


def _observe(state: FitState, surroundings: Surroundings, epoch: EpochRecord, epochs: int) -> None:
    state.epochs.append(epoch)
    surroundings.on_epoch(epoch, epochs)


def _record(stage: Stage, epoch: Epoch, hit_ratio: float | None, ndcg: float | None) -> EpochRecord:
    return EpochRecord(
        stage=stage,
        epoch=epoch.number,
        loss=epoch.loss,
        learning_rate=epoch.learning_rate,
        hr10=hit_ratio,
        ndcg10=ndcg,
        seconds=epoch.seconds,
        pairs_per_second=epoch.pairs / max(epoch.seconds, 1e-9),
    )


def _metrics(qualities: Mapping[str, Quality], users: int) -> dict[str, float]:
    """As a manifest keeps them: NeuCF's by their own names, others' with a prefix."""
    metrics = {"holdout_users": float(users)}
    for name, quality in qualities.items():
        prefix = PREFIXES.get(name, f"{name}_")
        metrics.update({f"{prefix}{metric}": value for metric, value in _by_metric(quality).items()})
    return metrics


def _by_metric(quality: Quality) -> dict[str, float]:
    return {f"hr@{TOP}": round(quality.hit_ratio, 6), f"ndcg@{TOP}": round(quality.ndcg, 6)}


def _training_data(dataset: Dataset, judged_users: int) -> TrainingData:
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
        judged_users=judged_users,
    )


def _share(embeddings: Embeddings) -> float:
    """The share of embeddings (n, d) that are there."""
    return float(embeddings.any(axis=1).mean()) if embeddings.size else 0.0

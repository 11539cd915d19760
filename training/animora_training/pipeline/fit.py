"""A fit: how long to train is chosen on a hold-out, then everything is trained for as long."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from animora_artifact import Artifact
from animora_training.data.arrays import temporary_folder
from animora_training.data.dataset import Dataset
from animora_training.errors import Interrupted
from animora_training.memory import memory_for
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import Factorisation, factorize
from animora_training.modeling.initialization import Initialization, new_initialization
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.trainer import Epoch, Trainer, settled
from animora_training.modeling.training_set import TrainingPairs, TrainingSet, training_set
from animora_training.pipeline.als_tuning import tuned_als
from animora_training.pipeline.checkpoint import Checkpoints, FitState
from animora_training.pipeline.export import VersionOrigin, export
from animora_training.pipeline.held_out_ranks import HeldOutRanks
from animora_training.pipeline.holdout import FitHoldOut, Judged
from animora_training.pipeline.interpolation import judge_way
from animora_training.pipeline.record import EpochRecord, Host, RunRecord, Software, Stage
from animora_training.pipeline.recording import (
    differences,
    epoch_record,
    held_out_ranks,
    metrics,
    qualities_of,
    reliability,
    start_record,
    training_data,
)
from animora_training.pipeline.warm_start import ParentVersion, WarmStartState, warm_recipe

# Several processes agree on what they do between steps, and not more often than after so many.
STEPS_TOGETHER = 16
# A factorisation knows nothing of images and captions: where posts have any, what is trained may rank so much
# worse on the hold-out (NDCG@10) before the factorisation is published as it is.
START_MARGIN = 0.01
SCRATCH = "scratch-"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: Which.
        done: Epochs that have ended, and the part of the next one that has.
        epochs: How many there will be at most.
        pairs_per_second: In this epoch so far.
    """

    stage: Stage
    done: float
    epochs: int
    pairs_per_second: float


@dataclass(frozen=True, slots=True)
class FitContext:
    """Where a fit runs, and who watches.

    Attributes:
        created_at: When the version is made.
        device: Where the network is trained.
        ranks: The processes that share the work.
        checkpoints: Where the fit writes down how far it is.
        on_epoch: Told of every epoch, and how many of its stage there will be at most.
        on_step: Told of every step. It may raise Interrupted, and go on doing so: the fit ends with a
            checkpoint, at once or, with several processes, after some steps.
        scratch: A folder for what may be larger than memory; without one, it is kept in memory.
    """

    created_at: datetime
    device: torch.device
    ranks: ProcessGroup
    checkpoints: Checkpoints
    on_epoch: Callable[[EpochRecord, int], None]
    on_step: Callable[[Progress], None] = lambda progress: None
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted version and what is known about it.

    Attributes:
        artifact: The version.
        record: What the fit was.
        learnt: What a later fit can start from.
        evaluated: Where its network ranked the held-out pairs before it learnt them, if anybody reports.
    """

    artifact: Artifact
    record: RunRecord
    learnt: WarmStartState
    evaluated: HeldOutRanks | None


@dataclass(frozen=True, slots=True)
class _Course:
    """What the stages of a fit share.

    Attributes:
        recipe: How they train.
        parent: What they start from, if that is an earlier fit.
        state: How far they are.
        context: Where they run.
        margin: By how much what is trained may rank worse than its start before that is kept.
    """

    recipe: FitConfig
    parent: ParentVersion | None
    state: FitState
    context: FitContext
    margin: float


@dataclass(frozen=True, slots=True)
class _Beginning:
    """Where a stage began.

    Attributes:
        start: What was there before the first step, if that is a factorisation and nothing else.
        factorisation: What is in there of one, in the first process; None where there is none.
    """

    start: Initialization | None
    factorisation: Factorisation | None


def fit(dataset: Dataset, config: FitConfig, context: FitContext, parent: ParentVersion | None = None) -> Fit:
    """As `fit_among`, in a process that is alone."""
    fitted = fit_among(dataset, config, context, parent)
    assert fitted is not None
    return fitted


@memory_for("the fit", "lower factors or mlp_embedding by --set")
def fit_among(
    dataset: Dataset, config: FitConfig, context: FitContext, parent: ParentVersion | None = None
) -> Fit | None:
    """Chooses the number of epochs on a hold-out, then trains on all interactions.

    Goes on from the latest checkpoint. All processes take part; only the first one gets the version.

    Args:
        dataset: All interactions.
        config: The recipe.
        context: Where it runs.
        parent: An earlier fit to start from. Held out are only pairs that it has not learnt from; where too
            few users have one, nothing is, and the version has no metrics.

    Raises:
        NothingToLearn: There are too few interactions.
        NotFinite: Training diverged, or started from what is not finite.
        InvalidOption: The parent's network is not of the recipe's widths.
        WidthMismatch: The parent's network takes embeddings of other widths than the data's.
        Interrupted: `on_step` said so; a checkpoint has been written.
        OutOfMemory: There is no memory for a part of it, which is named.
    """
    state = context.checkpoints.load()
    margin = START_MARGIN if dataset.posts.image.size + dataset.posts.caption.size else 0.0
    if parent is None:
        course = _Course(config, None, state, context, margin)
        holdout: FitHoldOut | None = FitHoldOut.of(dataset, config)
    else:
        parent.require_recipe(config)
        parent.require_widths(dataset)
        state.strength = parent.learnt.factorisation.strength if parent.learnt.factorisation else None
        course = _Course(warm_recipe(config), parent, state, context, margin)
        holdout = FitHoldOut.unseen(dataset, config, parent.seen)
    if state.stage == "hold-out":
        if holdout is not None:
            _judge(holdout, course)
        state.stage, state.trainer = "refit", None
        context.checkpoints.save(state, None)
    # With a parent the last epoch, at whose end the learning rate is zero, is the best but for chance.
    chosen = _chosen(course) if parent is None else course.recipe.max_epochs
    share = state.judged[chosen].share if parent is None else 1.0
    data = _training_set(dataset, dataset.pairs, context)
    trainer, beginning = _trainer(data, course)
    for epoch in islice(_epochs(trainer, course, "refit", chosen), chosen - trainer.position.epoch):
        _observe(course, epoch_record("refit", epoch), chosen)
        context.checkpoints.save(state, trainer)
    learnt = trainer.learnt()
    if not context.ranks.first:
        return None
    del trainer  # with three tables of users, and there are two or three more to come
    factorisation = beginning.factorisation
    if beginning.start is not None:
        learnt = beginning.start.toward(learnt, share)
    del beginning
    network = settled(learnt, data)
    if state.judged:
        scaling = state.judged[chosen].scaling
        network = network.rescaled(scaling.slope, scaling.offset)
    warm = parent is not None
    qualities = {} if holdout is None else qualities_of(holdout, state, chosen, warm)
    evaluated = held_out_ranks(holdout, state, chosen)
    origin = VersionOrigin(
        created_at=context.created_at,
        hyperparameters={
            **config.hyperparameters(),
            "als_alpha": state.strength.alpha if state.strength else 0.0,
            "als_regularisation": state.strength.regularisation if state.strength else 0.0,
            "epochs": chosen,
            "kept_share": share,
        },
        metrics=metrics(qualities, holdout, evaluated),
        differences=differences(evaluated, state, warm),
    )
    artifact = export(network, data, dataset.pairs, origin)
    record = RunRecord(
        version=artifact.manifest.version,
        created_at=origin.created_at,
        parent=parent.learnt.version if parent else None,
        seed=config.seed,
        configuration=origin.hyperparameters,
        data=training_data(dataset, holdout),
        epochs=tuple(state.epochs),
        chosen_epoch=chosen,
        stopped="early stopping" if 0 < len(state.judged) <= course.recipe.max_epochs else "all epochs",
        qualities=qualities,
        reliability=reliability(state, chosen),
        software=Software.here(),
        host=Host.here(context.device),
    )
    left = WarmStartState(record.version, factorisation, artifact.vocabulary, learnt)
    return Fit(artifact, record, left, evaluated)


def _judge(holdout: FitHoldOut, course: _Course) -> None:
    """Trains without the held-out pairs and stops when they are ranked no better for a while."""
    recipe, state, context = course.recipe, course.state, course.context
    data = _training_set(holdout.dataset, holdout.training, context)
    ranks = context.ranks
    if course.parent is None and state.strength is None and recipe.factorisation == "als":
        state.strength = ranks.once(lambda: tuned_als(holdout, data, recipe, ranks.threads))
        context.checkpoints.save(state, None)
    started = time.monotonic()
    trainer, beginning = _trainer(data, course)
    began = beginning.start
    seconds = time.monotonic() - started

    def judge() -> None:
        network = trainer.network()

        def judged() -> Judged:
            if began is None or not state.judged:
                return holdout.judge(network, data.vocabulary)
            return judge_way(holdout, began.network, network, data.vocabulary)

        state.judged.append(ranks.once(judged))

    if not state.judged:
        judge()
        if course.parent is None and recipe.factorisation == "als":
            swept = len(data.posts) * recipe.als_iterations
            _observe(course, start_record(state.judged[0].choice, seconds, swept), 1)
        context.checkpoints.save(state, None)
    epochs = _epochs(trainer, course, "hold-out", recipe.max_epochs)
    while not _ended(course):  # as it is already where a kill came at the end of this stage
        epoch = next(epochs)
        judge()
        _observe(course, epoch_record("hold-out", epoch, state.judged[-1].choice), recipe.max_epochs)
        context.checkpoints.save(state, trainer)


def _ended(course: _Course) -> bool:
    epoch = len(course.state.judged) - 1
    return epoch >= course.recipe.max_epochs or epoch - _chosen(course) >= course.recipe.patience


def _chosen(course: _Course) -> int:
    """The epoch after which the hold-out was ranked best; 0 where training did nothing but harm."""
    start, *trained = (judged.choice.ndcg for judged in course.state.judged)
    known = [-math.inf if math.isnan(ndcg) else ndcg for ndcg in trained]  # NaN would be the highest
    if not known or not max(known) >= start - course.margin:
        return 0
    return 1 + int(np.argmax(known))


def _training_set(dataset: Dataset, pairs: TrainingPairs, context: FitContext) -> TrainingSet:
    if context.scratch is None:
        return training_set(dataset, pairs)
    # What is mapped stays there without its file, and no kill leaves it behind.
    with temporary_folder(SCRATCH, context.scratch) as folder:
        return training_set(dataset, pairs, folder)


def _trainer(data: TrainingSet, course: _Course) -> tuple[Trainer, _Beginning]:
    """A trainer at the stage's latest checkpoint or its start, and where it began."""
    state, context = course.state, course.context
    start, factorisation = _start(data, course)
    trainer = Trainer(data.to(context.device), course.recipe, start.to(context.device), context.ranks)
    began = trainer.learnt() if course.parent is None and factorisation is not None else None
    if state.trainer is not None:
        trainer.restore(state.trainer)
        state.trainer = None
    return trainer, _Beginning(began, factorisation if context.ranks.first else None)


def _start(data: TrainingSet, course: _Course) -> tuple[Initialization, Factorisation | None]:
    recipe, strength, ranks = course.recipe, course.state.strength, course.context.ranks
    if course.parent is not None:
        return course.parent.grown(data, recipe, ranks)
    if strength is None:
        return new_initialization(data, recipe, ranks=ranks), None
    factorisation = ranks.once(lambda: factorize(data, recipe, strength, threads=ranks.threads))
    return new_initialization(data, recipe, factorisation, ranks), factorisation


def _epochs(trainer: Trainer, course: _Course, stage: Stage, epochs: int) -> Iterator[Epoch]:
    context, checkpoints = course.context, course.context.checkpoints
    ranks = context.ranks

    def between_steps() -> None:
        at, interrupted = trainer.position, None
        rate = at.pairs * ranks.world / max(at.seconds, 1e-9)
        try:
            context.on_step(Progress(stage, at.epoch + at.step / trainer.steps, epochs, rate))
        except Interrupted as error:
            interrupted = error
        if ranks.world > 1 and at.step % STEPS_TOGETHER:
            return  # clocks and signals differ, but a checkpoint is of one step
        if ranks.any(interrupted is not None):
            checkpoints.save(course.state, trainer)
            raise interrupted or Interrupted("another process was asked to end")
        if ranks.any(checkpoints.due):
            checkpoints.save(course.state, trainer)

    return trainer.epochs(between_steps)


def _observe(course: _Course, epoch: EpochRecord, epochs: int) -> None:
    course.state.epochs.append(epoch)
    course.context.on_epoch(epoch, epochs)

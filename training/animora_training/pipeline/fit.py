"""A fit in two stages: the hold-out chooses the number of epochs, the refit trains on all data."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import torch

from animora_artifact import Artifact
from animora_training.data.arrays import temporary_folder
from animora_training.data.dataset import Dataset
from animora_training.errors import Interrupted
from animora_training.memory import explain_out_of_memory
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import Factorisation, factorize
from animora_training.modeling.initialization import Initialization, new_initialization
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.trainer import Epoch, Trainer, fold_histories
from animora_training.modeling.training_set import TrainingPairs, TrainingSet, training_set
from animora_training.pipeline.als_tuning import tune_als
from animora_training.pipeline.checkpoint import Checkpoints, FitState
from animora_training.pipeline.early_stopping import EarlyStopping
from animora_training.pipeline.export import VersionOrigin, export
from animora_training.pipeline.held_out_ranks import HeldOutRanks
from animora_training.pipeline.holdout import FitHoldOut, HoldOutResult
from animora_training.pipeline.interpolation import evaluate_interpolations
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

# Steps between two synchronisations of the processes (interrupts and checkpoints).
SYNC_INTERVAL = 16
SCRATCH = "scratch-"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a stage.

    Attributes:
        stage: The stage.
        done: Epochs done, with the fraction of the current one.
        epochs: Maximum number of epochs.
        pairs_per_second: Training rate in the current epoch.
    """

    stage: Stage
    done: float
    epochs: int
    pairs_per_second: float


@dataclass(frozen=True, slots=True)
class FitContext:
    """Environment and callbacks of a fit.

    Attributes:
        created_at: Creation time of the version.
        device: Device that the network is trained on.
        group: The processes that share the work.
        checkpoints: Writes and reads the checkpoints.
        on_epoch: Called with each epoch and the maximum number of epochs of its stage.
        on_step: Called after each step. If it raises Interrupted, the fit ends with a checkpoint: at once in
            a single process, else within SYNC_INTERVAL steps; it must keep raising.
        scratch: Folder for memory-mapped training data; None keeps them in memory.
    """

    created_at: datetime
    device: torch.device
    group: ProcessGroup
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
        warm_start_state: What a later fit can start from.
        evaluated: Where its network ranked the held-out pairs before it trained them, if anybody reports.
    """

    artifact: Artifact
    record: RunRecord
    warm_start_state: WarmStartState
    evaluated: HeldOutRanks | None


@dataclass(frozen=True, slots=True)
class _FitPlan:
    """Values that both stages of a fit share.

    Attributes:
        recipe: Hyper-parameters of training.
        parent: The earlier fit, in a warm start.
        state: Progress of the fit.
        context: Environment of the fit.
        early_stopping: Chooses the epoch.
    """

    recipe: FitConfig
    parent: ParentVersion | None
    state: FitState
    context: FitContext
    early_stopping: EarlyStopping

    @property
    def ndcg(self) -> list[float]:
        """NDCG@10 of the selection users by the initialization, then after each epoch of the hold-out."""
        return [result.choice.ndcg for result in self.state.results]


@dataclass(frozen=True, slots=True)
class _StageStart:
    """Initial state of a stage.

    Attributes:
        start: The initialization; None without a factorisation and in a warm start.
        factorisation: The factorisation in it, on rank zero; None without one.
    """

    start: Initialization | None
    factorisation: Factorisation | None


def fit(dataset: Dataset, config: FitConfig, context: FitContext, parent: ParentVersion | None = None) -> Fit:
    """Runs `fit_distributed` in a single process."""
    fitted = fit_distributed(dataset, config, context, parent)
    assert fitted is not None
    return fitted


@explain_out_of_memory("the fit", "lower factors or mlp_embedding by --set")
def fit_distributed(
    dataset: Dataset, config: FitConfig, context: FitContext, parent: ParentVersion | None = None
) -> Fit | None:
    """Chooses the number of epochs on a hold-out, then trains on all interactions.

    Resumes from the latest checkpoint, if there is one. All processes of the group must call it.

    Args:
        dataset: All interactions.
        config: The recipe.
        context: Environment and callbacks.
        parent: Earlier fit to start from. Only pairs that it was not trained on are held out; if too few
            users have one, nothing is held out and the version has no metrics.

    Returns:
        The fit on rank zero, None on other ranks.

    Raises:
        NothingToLearn: There are too few interactions.
        NotFinite: Training diverged, or the initialization is not finite.
        InvalidOption: The parent's network has other widths than the recipe.
        WidthMismatch: The parent's network takes embeddings of other widths than the data's.
        Interrupted: `on_step` ended the fit; a checkpoint was written.
        OutOfMemory: A part of the fit, named in the text, does not fit into memory.
    """
    state = context.checkpoints.load()
    if parent is None:
        plan = _FitPlan(config, None, state, context, EarlyStopping.of(config, dataset))
        holdout: FitHoldOut | None = FitHoldOut.of(dataset, config)
    else:
        parent.require_recipe(config)
        parent.require_widths(dataset)
        state.als_settings = parent.state.factorisation.settings if parent.state.factorisation else None
        warm = warm_recipe(config)
        plan = _FitPlan(warm, parent, state, context, EarlyStopping.of(warm, dataset))
        holdout = FitHoldOut.unseen(dataset, config, parent.seen)
    if state.stage == "hold-out":
        if holdout is not None:
            _train_on_hold_out(holdout, plan)
        state.stage, state.trainer = "refit", None
        context.checkpoints.save(state, None)
    # A warm start keeps its last epoch: the learning rate falls to zero, so earlier ones are no better.
    chosen = plan.early_stopping.best_epoch(plan.ndcg) if parent is None else plan.recipe.max_epochs
    share = state.results[chosen].share if parent is None else 1.0
    data = _training_set(dataset, dataset.pairs, context)
    trainer, stage_start = _trainer(data, plan)
    for epoch in islice(_epochs(trainer, plan, "refit", chosen), chosen - trainer.position.epoch):
        _record_epoch(plan, epoch_record("refit", epoch), chosen)
        context.checkpoints.save(state, trainer)
    trained = trainer.initialization()
    if not context.group.is_rank_zero:
        return None
    del trainer  # frees three user tables: the export needs two or three more
    factorisation = stage_start.factorisation
    if stage_start.start is not None:
        trained = stage_start.start.interpolate_to(trained, share)
    del stage_start
    network = fold_histories(trained, data)
    if state.results:
        scaling = state.results[chosen].scaling
        network = network.rescaled(scaling.slope, scaling.offset)
    is_warm_start = parent is not None
    qualities = {} if holdout is None else qualities_of(holdout, state, chosen, is_warm_start)
    evaluated = held_out_ranks(holdout, state, chosen)
    origin = VersionOrigin(
        created_at=context.created_at,
        hyperparameters={
            **config.hyperparameters(),
            "als_alpha": state.als_settings.alpha if state.als_settings else 0.0,
            "als_regularisation": state.als_settings.regularisation if state.als_settings else 0.0,
            "epochs": chosen,
            "kept_share": share,
        },
        metrics=metrics(qualities, holdout, evaluated),
        differences=differences(evaluated, state, is_warm_start),
    )
    artifact = export(network, data, dataset.pairs, origin)
    record = RunRecord(
        version=artifact.manifest.version,
        created_at=origin.created_at,
        parent=parent.state.version if parent else None,
        seed=config.seed,
        configuration=origin.hyperparameters,
        data=training_data(dataset, holdout),
        epochs=tuple(state.epochs),
        chosen_epoch=chosen,
        stopped="early stopping" if 0 < len(state.results) <= plan.recipe.max_epochs else "all epochs",
        qualities=qualities,
        reliability=reliability(state, chosen),
        software=Software.here(),
        host=Host.here(context.device),
    )
    warm_start_state = WarmStartState(record.version, factorisation, artifact.vocabulary, trained)
    return Fit(artifact, record, warm_start_state, evaluated)


def _train_on_hold_out(holdout: FitHoldOut, plan: _FitPlan) -> None:
    """Trains without the held-out pairs; stops `patience` epochs after the best one."""
    recipe, state, context = plan.recipe, plan.state, plan.context
    data = _training_set(holdout.dataset, holdout.training, context)
    group = context.group
    if plan.parent is None and state.als_settings is None and recipe.factorisation == "als":
        state.als_settings = group.on_rank_zero(lambda: tune_als(holdout, data, recipe, group.threads))
        context.checkpoints.save(state, None)
    started = time.monotonic()
    trainer, stage_start = _trainer(data, plan)
    start = stage_start.start
    seconds = time.monotonic() - started

    def evaluate() -> None:
        network = trainer.network()

        def evaluated() -> HoldOutResult:
            if start is None or not state.results:
                return holdout.evaluate(network, data.vocabulary)
            return evaluate_interpolations(holdout, start.network, network, data.vocabulary)

        state.results.append(group.on_rank_zero(evaluated))

    if not state.results:
        evaluate()
        if plan.parent is None and recipe.factorisation == "als":
            pairs = len(data.posts) * recipe.als_iterations
            _record_epoch(plan, start_record(state.results[0].choice, seconds, pairs), 1)
        context.checkpoints.save(state, None)
    epochs = _epochs(trainer, plan, "hold-out", recipe.max_epochs)
    while not plan.early_stopping.should_stop(plan.ndcg):  # true at once after a kill at the end of the stage
        epoch = next(epochs)
        evaluate()
        _record_epoch(plan, epoch_record("hold-out", epoch, state.results[-1].choice), recipe.max_epochs)
        context.checkpoints.save(state, trainer)


def _training_set(dataset: Dataset, pairs: TrainingPairs, context: FitContext) -> TrainingSet:
    if context.scratch is None:
        return training_set(dataset, pairs)
    # Unlinked files stay mapped; after a kill nothing is left on disk.
    with temporary_folder(SCRATCH, context.scratch) as folder:
        return training_set(dataset, pairs, folder)


def _trainer(data: TrainingSet, plan: _FitPlan) -> tuple[Trainer, _StageStart]:
    """A trainer at the stage's latest checkpoint, or new, and the stage's initial state."""
    state, context = plan.state, plan.context
    start, factorisation = _start(data, plan)
    trainer = Trainer(data.to(context.device), plan.recipe, start.to(context.device), context.group)
    initial = trainer.initialization() if plan.parent is None and factorisation is not None else None
    if state.trainer is not None:
        trainer.restore(state.trainer)
        state.trainer = None
    return trainer, _StageStart(initial, factorisation if context.group.is_rank_zero else None)


def _start(data: TrainingSet, plan: _FitPlan) -> tuple[Initialization, Factorisation | None]:
    recipe, als_settings, group = plan.recipe, plan.state.als_settings, plan.context.group
    if plan.parent is not None:
        return plan.parent.initialization_for(data, recipe, group)
    if als_settings is None:
        return new_initialization(data, recipe, group=group), None
    factorisation = group.on_rank_zero(lambda: factorize(data, recipe, als_settings, threads=group.threads))
    return new_initialization(data, recipe, factorisation, group), factorisation


def _epochs(trainer: Trainer, plan: _FitPlan, stage: Stage, epochs: int) -> Iterator[Epoch]:
    context, checkpoints = plan.context, plan.context.checkpoints
    group = context.group

    def between_steps() -> None:
        at, interrupted = trainer.position, None
        rate = at.pairs * group.world_size / max(at.seconds, 1e-9)
        try:
            context.on_step(Progress(stage, at.epoch + at.step / trainer.steps, epochs, rate))
        except Interrupted as error:
            interrupted = error
        if group.world_size > 1 and at.step % SYNC_INTERVAL:
            return  # all processes must write the checkpoint of the same step
        if group.any(interrupted is not None):
            checkpoints.save(plan.state, trainer)
            raise interrupted or Interrupted("another process of the fit was interrupted")
        if group.any(checkpoints.due):
            checkpoints.save(plan.state, trainer)

    return trainer.epochs(between_steps)


def _record_epoch(plan: _FitPlan, epoch: EpochRecord, epochs: int) -> None:
    plan.state.epochs.append(epoch)
    plan.context.on_epoch(epoch, epochs)

"""Refits a version's recipe on other data, for an unbiased evaluation on data that the version has seen."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime

import torch
from pydantic import TypeAdapter, ValidationError

from animora_artifact import Artifact
from animora_training.data.dataset import Dataset
from animora_training.errors import InvalidInput
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import ProcessGroup
from animora_training.pipeline.checkpoint import Checkpoints
from animora_training.pipeline.fit import FitContext, fit
from animora_training.pipeline.record import EpochRecord


def refit(dataset: Dataset, version: Artifact, on_epoch: Callable[[EpochRecord, int], None]) -> Artifact:
    """Fits a version's hyper-parameters on a data set.

    Tuned values (number of epochs, ALS settings) are chosen again, since the version chose them on all of its
    data.

    Args:
        dataset: Data set to fit on.
        version: The version whose recipe is used.
        on_epoch: Called with each epoch and the maximum number of epochs of its stage.

    Raises:
        InvalidInput: The manifest lacks a hyper-parameter of this trainer.
        NothingToLearn: There are too few interactions.
    """
    config = recipe_of(version)
    if not config.embeddings:
        dataset = dataset.without_embeddings()
    context = FitContext(
        created_at=datetime.now(UTC),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        group=ProcessGroup(),
        checkpoints=Checkpoints(None, ""),
        on_epoch=on_epoch,
    )
    return fit(dataset, config, context).artifact


def recipe_of(version: Artifact) -> FitConfig:
    """The configuration in a manifest, without the tuned values.

    Raises:
        InvalidInput: The manifest lacks a hyper-parameter of this trainer, or has an invalid one.
    """
    names = {field.name for field in fields(FitConfig)} - {"als_alpha", "als_regularisation"}
    kept = {name: value for name, value in version.manifest.hyperparameters.items() if name in names}
    if missing := sorted(names - kept.keys()):
        raise InvalidInput(
            f"{version.manifest.version} does not say its {missing[0]}, so it cannot be fitted again on a "
            "part of the data: it is another trainer's; fit a new version, or evaluate this one by --ncf"
        )
    try:
        return TypeAdapter(FitConfig).validate_python(kept)
    except ValidationError as error:
        raise InvalidInput(f"{version.manifest.version}: {error.errors()[0]['msg']}") from error

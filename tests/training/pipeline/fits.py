"""Quick fits through the command line, and their files."""

import json
from io import BytesIO

import numpy as np
import torch
from typer.testing import CliRunner

from animora_artifact import Golden, read_artifact
from animora_training.commands.cli import app

EPOCHS = 6
RECIPE = {
    "factors": 4,
    "mlp_embedding": 8,
    "hidden": "8,4",
    "als_iterations": 3,
    "users_per_step": 16,
    "max_epochs": EPOCHS,
    "patience": EPOCHS,
    "learning_rate": 0.01,
    "user_learning_rate": 5,
    "warmup_epochs": 1,
    "l2": 1,
    "dropout": 0.1,
}
CHOICES = [word for name, value in RECIPE.items() for word in ("--set", f"{name}={value}")]


def checkpoints(folder):
    """The number of checkpoints so far."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*.pt")), default=0)


def version(folder):
    (only,) = folder.iterdir()
    return read_artifact(only)


def same(first, second):
    """Whether two versions are equal except for name and creation time."""
    # Not the files: TorchScript orders the constants of a class differently in each process.
    weights = [torch.jit.load(BytesIO(one.model)).state_dict() for one in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    arrays = [one.golden for one in (first, second)]
    return (
        all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        and first.vocabulary.to_npz() == second.vocabulary.to_npz()
        and all(
            np.array_equal(getattr(arrays[0], name), getattr(arrays[1], name)) for name in Golden.__slots__
        )
        and first.manifest.metrics == second.manifest.metrics
        and first.manifest.hyperparameters == second.manifest.hyperparameters
    )


def recorded_epochs(folder):
    """The epochs in a run's record, without their durations."""
    epochs = json.loads((folder / "run.json").read_text())["epochs"]
    return [{name: value for name, value in epoch.items() if "second" not in name} for epoch in epochs]


def fit(environment, *arguments, code=0):
    """Fits in this process."""
    ended = CliRunner().invoke(app, ["fit", *CHOICES, *map(str, arguments)], env=environment)
    assert ended.exit_code == code, ended.output
    return ended

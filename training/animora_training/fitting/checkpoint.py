"""What a fit writes down as it goes, so that one that was killed goes on where it was."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from animora_training.errors import InvalidInput
from animora_training.fitting.holdout import Judged
from animora_training.fitting.record import EpochRecord
from animora_training.learning.trainer import Trainer

INTERVAL = 300.0

# What a state holds beside tensors, as plain values.
_JUDGED = TypeAdapter(list[Judged])
_EPOCHS = TypeAdapter(list[EpochRecord])


@dataclass(slots=True)
class FitState:
    """How far a fit is.

    Attributes:
        stage: What is trained.
        regularisation: Of the alternating least squares; None until it is chosen.
        judged: What the network was before the hold-out's first epoch and after each; by their
            `choice.ndcg` the epoch is chosen.
        epochs: What was observed of each epoch.
        trainer: Its state; None before a stage's first checkpoint.
    """

    stage: Literal["hold-out", "refit"] = "hold-out"
    regularisation: float | None = None
    judged: list[Judged] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    trainer: dict[str, Any] | None = None


class Checkpoints:
    """A file that is replaced whole. Without one, nothing is written down.

    It holds tensors and plain values only, and is read as such: a forged one can mislead, but run nothing.
    """

    def __init__(self, path: Path | None, identity: str, interval: float = INTERVAL) -> None:
        """Names the file.

        Args:
            path: Where.
            identity: What tells fits of other data or another configuration apart.
            interval: Seconds between checkpoints within an epoch.
        """
        self._path = path
        self._identity = identity
        self._interval = interval
        self._saved_at = time.monotonic()

    def load(self) -> FitState:
        """The state that was saved last, or that of a fit which has not begun.

        Raises:
            InvalidInput: The file is of other data or another configuration, or not a checkpoint.
        """
        if self._path is None or not self._path.exists():
            return FitState()
        try:
            kept = torch.load(self._path, weights_only=True, mmap=True)
            identity, state = kept["identity"], kept["state"]
            if identity == self._identity:
                state["judged"] = _JUDGED.validate_python(state["judged"])
                state["epochs"] = _EPOCHS.validate_python(state["epochs"])
                return FitState(**state)
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise InvalidInput(f"{self._path}: is not a checkpoint; remove it to start anew") from error
        raise InvalidInput(
            f"{self._path}: is of other data, another configuration or another number of processes; "
            "remove it, or name another --run-dir"
        )

    def save(self, state: FitState, trainer: Trainer | None) -> None:
        """Replaces what was saved before."""
        if self._path is None:
            return
        content = {
            "stage": state.stage,
            "regularisation": state.regularisation,
            "judged": _JUDGED.dump_python(state.judged),
            "epochs": _EPOCHS.dump_python(state.epochs),
            "trainer": trainer.state() if trainer else None,
        }
        staging = self._path.with_suffix(".staging")
        with staging.open("wb") as file:
            torch.save({"identity": self._identity, "state": content}, file)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(self._path)
        self._saved_at = time.monotonic()

    def save_now_and_then(self, state: FitState, trainer: Trainer) -> None:
        """Saves where the latest checkpoint is an interval old."""
        if self._path is not None and time.monotonic() - self._saved_at >= self._interval:
            self.save(state, trainer)

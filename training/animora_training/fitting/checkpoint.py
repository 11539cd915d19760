"""What a fit writes down as it goes, so that one that was killed goes on where it was."""

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from animora_training.errors import InvalidInput
from animora_training.fitting.record import EpochRecord
from animora_training.judging.evaluation import Quality
from animora_training.learning.trainer import Trainer

INTERVAL = 300.0  # seconds between checkpoints within an epoch


@dataclass(slots=True)
class FitState:
    """How far a fit is.

    Attributes:
        stage: What is trained.
        regularisation: Of the alternating least squares; None until it is chosen.
        choosing: NDCG@10 by which the epoch is chosen, before the first epoch and after each.
        reported: The quality for the other users, likewise.
        epochs: What was observed of each epoch.
        trainer: Its state; None before a stage's first checkpoint.
    """

    stage: Literal["hold-out", "refit"] = "hold-out"
    regularisation: float | None = None
    choosing: list[float] = field(default_factory=list)
    reported: list[Quality] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    trainer: dict[str, Any] | None = None


class Checkpoints:
    """A file that is replaced whole. Without one, nothing is written down.

    It holds tensors and plain values only, and is read as such: a forged one can mislead, but run nothing.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        """Takes the file, and what tells fits of other data or another configuration apart."""
        self._path = path
        self._identity = identity
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
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise InvalidInput(f"{self._path}: is not a checkpoint; remove it to start anew") from error
        if identity != self._identity:
            raise InvalidInput(
                f"{self._path}: is of other data, another configuration or another number of processes; "
                "remove it, or name another --run-dir"
            )
        state["reported"] = [Quality(**quality) for quality in state["reported"]]
        state["epochs"] = [EpochRecord.model_validate(epoch) for epoch in state["epochs"]]
        return FitState(**state)

    def save(self, state: FitState, trainer: Trainer | None) -> None:
        """Replaces what was saved before."""
        if self._path is None:
            return
        content = {
            **{name: getattr(state, name) for name in ("stage", "regularisation", "choosing")},
            "reported": [asdict(quality) for quality in state.reported],
            "epochs": [epoch.model_dump() for epoch in state.epochs],
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
        """Saves where the latest checkpoint is INTERVAL old."""
        if self._path is not None and time.monotonic() - self._saved_at >= INTERVAL:
            self.save(state, trainer)

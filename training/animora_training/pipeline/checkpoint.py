"""Checkpoints: the state of a fit on disk, from which a killed fit resumes."""

import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from animora_training.data.arrays import replace_file
from animora_training.errors import InvalidInput
from animora_training.modeling.factorisation import AlsSettings
from animora_training.modeling.process_group import SINGLE_PROCESS, ProcessGroup
from animora_training.modeling.trainer import Trainer
from animora_training.pipeline.holdout import HoldOutResult
from animora_training.pipeline.record import EpochRecord

INTERVAL = 300.0
_NAME = re.compile(r"checkpoint-(\d+)-(\d+)-of-(\d+)\.pt", re.ASCII)

# Adapters for the parts of a state that are not tensors.
_ALS_SETTINGS = TypeAdapter(AlsSettings | None)
_RESULTS = TypeAdapter(list[HoldOutResult])
_EPOCHS = TypeAdapter(list[EpochRecord])


@dataclass(slots=True)
class FitState:
    """Progress of a fit.

    Attributes:
        stage: The stage that is being trained.
        als_settings: Settings of the alternating least squares; None until they are chosen.
        results: Evaluation of the network before the first hold-out epoch and after each one; the epoch with
            the best `choice.ndcg` is chosen.
        epochs: Record of each finished epoch.
        trainer: State of the trainer; None before the first checkpoint of a stage.
    """

    stage: Literal["hold-out", "refit"] = "hold-out"
    als_settings: AlsSettings | None = None
    results: list[HoldOutResult] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    trainer: dict[str, Any] | None = None


class Checkpoints:
    """Writes and reads the checkpoints of a run folder. A new checkpoint replaces the one before.

    Each process writes one file, named `checkpoint-NUMBER-RANK-of-WORLD.pt`. A checkpoint is complete once
    all ranks have written theirs; only then the files of the previous number are removed. So a kill at any
    moment leaves one complete checkpoint.

    A file holds tensors and plain values only and is loaded with `weights_only`: it cannot run code.
    """

    def __init__(
        self,
        folder: Path | None,
        identity: str,
        group: ProcessGroup = SINGLE_PROCESS,
        interval: float = INTERVAL,
    ) -> None:
        """Stores the arguments; reads and writes nothing.

        Args:
            folder: Folder of the files, the same for all processes; None disables checkpoints.
            identity: Digest of data and configuration; a checkpoint with another identity is refused.
            group: The processes that share the work.
            interval: Seconds between checkpoints within an epoch.
        """
        self._folder = folder
        self._identity = identity
        self._group = group
        self._interval = interval
        self._number = 0
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether `interval` seconds have passed since the last checkpoint."""
        return self._folder is not None and time.monotonic() - self._saved_at >= self._interval

    def load(self) -> FitState:
        """Reads the latest complete checkpoint; without one, the state of a new fit.

        Raises:
            InvalidInput: The file is not a checkpoint, or belongs to other data, another configuration or
                another number of processes.
        """
        folder = self._folder
        if folder is None:
            return FitState()
        self._number = self._group.on_rank_zero(lambda: _latest(folder, self._group.world_size))
        if not self._number:
            return FitState()
        path = self._file(folder)
        try:
            kept = torch.load(path, weights_only=True, mmap=True)
            identity, state = kept["identity"], kept["state"]
            if identity == self._identity:
                return FitState(
                    stage=state["stage"],
                    als_settings=_ALS_SETTINGS.validate_python(state["strength"]),
                    results=_RESULTS.validate_python(state["judged"]),
                    epochs=_EPOCHS.validate_python(state["epochs"]),
                    trainer=state["trainer"],
                )
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise InvalidInput(f"{path}: is not a checkpoint; remove it to start over") from error
        raise InvalidInput(
            f"{path}: belongs to other data or another configuration; remove it, or name another --run-dir"
        )

    def save(self, state: FitState, trainer: Trainer | None) -> None:
        """Writes a checkpoint in place of the previous one. All processes must call it.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        folder = self._folder
        if folder is None:
            return
        content = {
            "stage": state.stage,
            "strength": asdict(state.als_settings) if state.als_settings else None,
            "judged": _RESULTS.dump_python(state.results),
            "epochs": _EPOCHS.dump_python(state.epochs),
            "trainer": trainer.state() if trainer else None,
        }
        self._number += 1
        path = self._file(folder)
        with replace_file(path) as file:
            try:
                torch.save({"identity": self._identity, "state": content}, file)
            except RuntimeError as error:
                # PyTorch's writer raises a second error on top of the file's OSError.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise
        self._group.barrier()
        for other in folder.glob(f"checkpoint-*-{self._group.rank}-of-{self._group.world_size}.*"):
            if other != path:
                other.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def _file(self, folder: Path) -> Path:
        return folder / f"checkpoint-{self._number}-{self._group.rank}-of-{self._group.world_size}.pt"


def _latest(folder: Path, world: int) -> int:
    """Number of the latest complete checkpoint; 0 without one."""
    found = set()
    for path in folder.glob("checkpoint-*.pt"):
        named = _NAME.fullmatch(path.name)
        if named is None:
            continue  # a copy made by a person
        number, rank, processes = named.groups()
        if int(processes) != world:
            raise InvalidInput(
                f"{path}: belongs to {processes} processes, not {world}: start as many, or remove it"
            )
        found.add((int(number), int(rank)))
    numbers = {number for number, _ in found}
    whole = [number for number in numbers if all((number, rank) in found for rank in range(world))]
    return max(whole, default=0)

"""What a fit writes down as it goes, so that one that was killed goes on where it was."""

import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter

from animora_training.data.arrays import replacing
from animora_training.errors import InvalidInput
from animora_training.modeling.factorisation import AlsSettings
from animora_training.modeling.process_group import ALONE, ProcessGroup
from animora_training.modeling.trainer import Trainer
from animora_training.pipeline.holdout import Judged
from animora_training.pipeline.record import EpochRecord

INTERVAL = 300.0
_NAME = re.compile(r"checkpoint-(\d+)-(\d+)-of-(\d+)\.pt", re.ASCII)

# What a state holds beside tensors, as plain values.
_STRENGTH = TypeAdapter(AlsSettings | None)
_JUDGED = TypeAdapter(list[Judged])
_EPOCHS = TypeAdapter(list[EpochRecord])


@dataclass(slots=True)
class FitState:
    """How far a fit is.

    Attributes:
        stage: What is trained.
        strength: Of the alternating least squares; None until it is chosen.
        judged: What the network was before the hold-out's first epoch and after each; by their
            `choice.ndcg` the epoch is chosen.
        epochs: What was observed of each epoch.
        trainer: Its state; None before a stage's first checkpoint.
    """

    stage: Literal["hold-out", "refit"] = "hold-out"
    strength: AlsSettings | None = None
    judged: list[Judged] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    trainer: dict[str, Any] | None = None


class Checkpoints:
    """What a fit writes down, each time in place of what it wrote before.

    Every process has a file of its own, and a checkpoint counts once all of them have theirs: a kill may come
    between two. So its number is in the files' names, and the older ones go when the newer ones are there.

    A file holds tensors and plain values only, and is read as such: a forged one can mislead and run nothing.
    """

    def __init__(
        self, folder: Path | None, identity: str, ranks: ProcessGroup = ALONE, interval: float = INTERVAL
    ) -> None:
        """Names the folder.

        Args:
            folder: Where the files are, for all processes the same; without one, nothing is written down.
            identity: What tells fits of other data or another configuration apart.
            ranks: The processes that share the work.
            interval: Seconds between checkpoints within an epoch.
        """
        self._folder = folder
        self._identity = identity
        self._ranks = ranks
        self._interval = interval
        self._number = 0
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the latest one is an interval old."""
        return self._folder is not None and time.monotonic() - self._saved_at >= self._interval

    def load(self) -> FitState:
        """The state that was saved last, or that of a fit which has not begun.

        Raises:
            InvalidInput: The file is of other data, another configuration or another number of processes, or
                not a checkpoint.
        """
        folder = self._folder
        if folder is None:
            return FitState()
        self._number = self._ranks.once(lambda: _latest(folder, self._ranks.world))
        if not self._number:
            return FitState()
        path = self._file(folder)
        try:
            kept = torch.load(path, weights_only=True, mmap=True)
            identity, state = kept["identity"], kept["state"]
            if identity == self._identity:
                state["strength"] = _STRENGTH.validate_python(state["strength"])
                state["judged"] = _JUDGED.validate_python(state["judged"])
                state["epochs"] = _EPOCHS.validate_python(state["epochs"])
                return FitState(**state)
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise InvalidInput(f"{path}: is not a checkpoint; remove it to start anew") from error
        raise InvalidInput(
            f"{path}: is of other data or another configuration; remove it, or name another --run-dir"
        )

    def save(self, state: FitState, trainer: Trainer | None) -> None:
        """Replaces what was saved before; all processes take part.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        folder = self._folder
        if folder is None:
            return
        content = {
            "stage": state.stage,
            "strength": asdict(state.strength) if state.strength else None,
            "judged": _JUDGED.dump_python(state.judged),
            "epochs": _EPOCHS.dump_python(state.epochs),
            "trainer": trainer.state() if trainer else None,
        }
        self._number += 1
        path = self._file(folder)
        with replacing(path) as file:
            try:
                torch.save({"identity": self._identity, "state": content}, file)
            except RuntimeError as error:
                # PyTorch's writer fails, for a second time, over what the file has raised.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise
        self._ranks.wait()
        for other in folder.glob(f"checkpoint-*-{self._ranks.rank}-of-{self._ranks.world}.*"):
            if other != path:
                other.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def _file(self, folder: Path) -> Path:
        return folder / f"checkpoint-{self._number}-{self._ranks.rank}-of-{self._ranks.world}.pt"


def _latest(folder: Path, world: int) -> int:
    """The number of the latest checkpoint of which all processes have their files, 0 if there is none."""
    found = set()
    for path in folder.glob("checkpoint-*.pt"):
        named = _NAME.fullmatch(path.name)
        if named is None:
            continue  # somebody's copy
        number, rank, processes = named.groups()
        if int(processes) != world:
            raise InvalidInput(
                f"{path}: is of {processes} processes, not {world}: start as many, or remove it to start anew"
            )
        found.add((int(number), int(rank)))
    numbers = {number for number, _ in found}
    whole = [number for number in numbers if all((number, rank) in found for rank in range(world))]
    return max(whole, default=0)

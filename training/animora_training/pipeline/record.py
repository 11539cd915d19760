"""The record of a fit (`run.json`): data, epochs, metrics and environment, for the report and comparisons."""

import math
import os
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from animora_training.errors import InvalidInput

Stage = Literal["factorisation", "hold-out", "refit"]
STAGES: tuple[Stage, ...] = ("factorisation", "hold-out", "refit")
StopReason = Literal["early stopping", "all epochs"]
# Types of hyper-parameters in a manifest.
Setting = str | int | float | bool | None | list[int]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _RecordPart(BaseModel):
    # JSON has no NaN; a diverged fit still needs a record.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class TrainingData(_RecordPart):
    """The interactions that a fit was trained on."""

    start: datetime | None = Field(description="time of the first interaction; None if unknown")
    end: datetime | None = Field(description="time of the last interaction")
    users: Count = Field(description="users with an interaction")
    posts: Count = Field(description="posts, those without an interaction included")
    interactions: Count = Field(description="distinct pairs of a user and a post")
    image_share: Share = Field(description="share of the posts that have an image embedding")
    caption_share: Share = Field(description="share of the posts that have a caption embedding")
    judged_users: Count = Field(description="reporting users of the hold-out")
    dropped_users: Count = Field(default=0, description="reporting users without enough negatives")
    candidates: float | None = Field(
        default=None, description="mean number of candidates of a held-out post, itself included"
    )


class EpochRecord(_RecordPart):
    """One epoch, or one sweep of the factorisation."""

    stage: Stage
    epoch: int = Field(ge=1, description="counted within the stage")
    loss: float | None = Field(description="mean over the epoch; None if not computed")
    learning_rate: float | None = Field(description="at the end of the epoch; None without one")
    hr10: float | None = Field(default=None, description="HR@10 of the selection users")
    ndcg10: float | None = Field(default=None, description="NDCG@10 of the selection users")
    seconds: float = Field(ge=0, description="training time, without evaluation")
    pairs_per_second: float = Field(ge=0, description="positive and negative pairs trained on")


class ReliabilityBin(_RecordPart):
    """A bin of a reliability diagram."""

    predicted: float = Field(description="mean predicted probability")
    observed: float = Field(description="share of positives")
    count: Count = Field(description="predictions")


class Software(_RecordPart):
    """Versions of the software that ran the fit."""

    python: str
    torch: str
    animora: str

    @classmethod
    def here(cls) -> "Software":
        """Versions in this process."""
        return cls(
            python=platform.python_version(), torch=torch.__version__, animora=version("animora-ranking")
        )


class Host(_RecordPart):
    """Type of the machine, without names that identify it."""

    cpus: int = Field(ge=1, description="processors available to the fit")
    device: str = Field(description="the GPU's name, or the CPU's kind")

    @classmethod
    def here(cls, device: torch.device) -> "Host":
        """This machine, with the device that the process trains on."""
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        else:
            name = f"CPU, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
        affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
        return cls(cpus=len(affinity(0)) if affinity else os.cpu_count() or 1, device=name)


class RunRecord(_RecordPart):
    """The record of a fit."""

    version: str = Field(description="the version that the fit made")
    created_at: datetime
    parent: str | None = Field(description="the version that it was warm-started from")
    seed: int
    configuration: Mapping[str, Setting] = Field(description="every hyper-parameter by name")
    data: TrainingData
    epochs: tuple[EpochRecord, ...] = Field(description="in the order in which they were trained")
    chosen_epoch: int = Field(
        ge=0, description="best epoch of the hold-out, and length of the refit; 0 is the initialization"
    )
    stopped: StopReason = Field(description="why the hold-out ended")
    qualities: Mapping[str, Mapping[str, float]] = Field(
        description="metrics by model, NeuCF first; each by name, such as ndcg@10"
    )
    reliability: tuple[ReliabilityBin, ...] = ()
    software: Software
    host: Host

    @classmethod
    def parse(cls, text: bytes) -> "RunRecord":
        """Reads what `to_json` wrote; unknown fields are ignored, for newer writers.

        Raises:
            InvalidInput: It is not JSON, or lacks a field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the document"
            raise InvalidInput(f"a run's record: {field}: {first['msg']}") from error

    def to_json(self) -> bytes:
        """The record as indented JSON, for people too."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    def stage(self, name: Stage) -> tuple[EpochRecord, ...]:
        """The epochs of one stage."""
        return tuple(epoch for epoch in self.epochs if epoch.stage == name)

    def measured(self, metric: str) -> dict[str, float]:
        """The finite values of a metric by model."""
        values = {name: quality.get(metric, math.nan) for name, quality in self.qualities.items()}
        return {name: value for name, value in values.items() if math.isfinite(value)}

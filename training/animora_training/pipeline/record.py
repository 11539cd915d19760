"""What a fit was: all that its report, its events and a later comparison need, as one JSON document."""

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
# As a manifest keeps hyper-parameters.
Setting = str | int | float | bool | None | list[int]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _RecordPart(BaseModel):
    # A fit that diverged has a record too, and JSON has no NaN.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class TrainingData(_RecordPart):
    """The interactions that were learnt from."""

    start: datetime | None = Field(description="the first interaction; None where no time is known")
    end: datetime | None = Field(description="the last interaction")
    users: Count = Field(description="users with an interaction")
    posts: Count = Field(description="posts, those without an interaction included")
    interactions: Count = Field(description="distinct pairs of a user and a post")
    image_share: Share = Field(description="share of the posts that have an image embedding")
    caption_share: Share = Field(description="share of the posts that have a caption embedding")
    judged_users: Count = Field(description="users of the hold-out for whom the qualities speak")
    dropped_users: Count = Field(default=0, description="those whose post had too few to be ranked among")
    candidates: float | None = Field(
        default=None, description="posts that a held-out one was ranked among, itself included: the mean"
    )


class EpochRecord(_RecordPart):
    """One epoch, or one sweep of the factorisation."""

    stage: Stage
    epoch: int = Field(ge=1, description="counted within the stage")
    loss: float | None = Field(description="mean over the epoch; None where it was not computed")
    learning_rate: float | None = Field(description="at the epoch's end; None where there is none")
    hr10: float | None = Field(default=None, description="HR@10 of the users who choose the epoch")
    ndcg10: float | None = Field(default=None, description="NDCG@10 of the users who choose the epoch")
    seconds: float = Field(ge=0, description="of training, judging left out")
    pairs_per_second: float = Field(ge=0, description="positive and negative pairs trained on")


class ReliabilityBin(_RecordPart):
    """Predictions that lie close together, and how often they came true."""

    predicted: float = Field(description="mean predicted probability")
    observed: float = Field(description="share of positives")
    count: Count = Field(description="predictions")


class Software(_RecordPart):
    """What computed it."""

    python: str
    torch: str
    animora: str

    @classmethod
    def here(cls) -> "Software":
        """Of this process."""
        return cls(
            python=platform.python_version(), torch=torch.__version__, animora=version("animora-ranking")
        )


class Host(_RecordPart):
    """The kind of machine, and nothing that names it."""

    cpus: int = Field(ge=1, description="processors that the fit might use")
    device: str = Field(description="the GPU's name, or the CPU's kind")

    @classmethod
    def here(cls, device: torch.device) -> "Host":
        """Of this process, which trains on the device."""
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        else:
            name = f"CPU, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
        affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
        return cls(cpus=len(affinity(0)) if affinity else os.cpu_count() or 1, device=name)


class RunRecord(_RecordPart):
    """Everything a fit was."""

    version: str = Field(description="the version that it made")
    created_at: datetime
    parent: str | None = Field(description="the version that it was warm-started from")
    seed: int
    configuration: Mapping[str, Setting] = Field(description="every hyper-parameter by name")
    data: TrainingData
    epochs: tuple[EpochRecord, ...] = Field(description="in the order in which they were trained")
    chosen_epoch: int = Field(
        ge=0, description="of the hold-out; the refit trains for as many; 0 is the start"
    )
    stopped: StopReason = Field(description="why the hold-out ended")
    qualities: Mapping[str, Mapping[str, float]] = Field(
        description="by what was judged, what the fit is about first: each metric by name, such as ndcg@10"
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
        """A metric by what was judged; what lacks it or has no finite value is left out."""
        values = {name: quality.get(metric, math.nan) for name, quality in self.qualities.items()}
        return {name: value for name, value in values.items() if math.isfinite(value)}

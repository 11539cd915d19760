"""The section `scorer`."""

from typing import Literal

from pydantic import Field

from animora_server.settings.section import HOUR, Section


class ScorerSettings(Section):
    """The device and its queue; work is counted in rows (user-post pairs)."""

    device: str = Field(
        default="auto", pattern="^(auto|cpu|cuda(:[0-9]+)?)$", description="auto, cpu, cuda or cuda:N"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="arithmetic of the resident models; half precision, for GPUs, is used for those whose "
        "golden rows allow it",
    )
    compiled: bool = Field(
        default=True,
        description="score on the CPU by the native code that a version may hold, not by TorchScript",
    )
    threads: int = Field(
        default=1, ge=1, le=256, description="CPU threads of one batch; native code takes one"
    )
    max_batch_rows: int = Field(
        default=8192, ge=256, le=1 << 18, description="rows scored at once; a larger request is split"
    )
    max_queue_rows: int = Field(
        default=200_000,
        ge=10_000,
        le=10**9,
        description="rows waiting before the heuristic answers instead; not below what one request may hold",
    )
    gather_window: float = Field(
        default=0.0, ge=0, le=0.1, description="seconds to wait for more rows before a batch"
    )
    shared: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="with workers: one process has the device and scores for all; auto is on for a GPU",
    )
    hang_timeout: float = Field(
        default=10.0, gt=0.001, le=HOUR, description="seconds a batch may run before the process ends"
    )

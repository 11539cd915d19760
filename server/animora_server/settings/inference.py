"""The sections `models` and `scorer`: the model store, the device and its queue."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from animora_server.settings.section import DAY, HOUR, Section, matching


class ModelSettings(Section):
    """The model store, and which of its versions are loaded."""

    store: str = Field(
        default="",
        description="folder, file:// or s3:// URL of the model store; empty ranks by the heuristic only",
    )
    verify_key: Path | None = Field(
        default=None,
        description="PEM file with a public key; a version not signed with its private key is refused",
    )
    active_verify_key: Path | None = Field(
        default=None,
        description="PEM file with the public key of ACTIVE's signature; by default that of `verify_key`",
    )
    trusted: bool = Field(
        default=False,
        description="load native code of unsigned versions too: anyone who can write to the store can then "
        "run code in this server",
    )
    max_bytes: int = Field(
        default=16 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="total bytes of a version's files; a larger version is refused unread, as is one larger "
        "than a quarter of the memory",
    )
    preflight: bool = Field(
        default=True,
        description="open a new version and replay its golden rows in a child process before loading it",
    )
    poll_interval: float = Field(
        default=2.0, gt=0.001, le=DAY, description="seconds between reads of the ACTIVE pointer"
    )
    resident: int = Field(
        default=2, ge=1, le=8, description="versions kept on the device, including the active one"
    )
    ready_requires_model: bool = Field(
        default=False, description="report NOT_SERVING until a model is loaded"
    )


class ScorerSettings(Section):
    """The device and its queue. A row is one user-post pair."""

    device: Annotated[str, matching("auto|cpu|cuda(:[0-9]+)?", "must be auto, cpu, cuda or cuda:N")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:N"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="arithmetic of resident models; half precision (GPU) applies to versions whose golden "
        "rows allow it",
    )
    compiled: bool = Field(
        default=True,
        description="on the CPU, score with a version's native code, if any, instead of TorchScript",
    )
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads per batch; native code uses one")
    max_batch_rows: int = Field(
        default=8192, ge=256, le=1 << 18, description="rows per batch; a larger request is split"
    )
    max_queue_rows: int = Field(
        default=200_000,
        ge=10_000,
        le=10**9,
        description="queued rows above which the heuristic answers; at least the candidates of one request",
    )
    gather_window: float = Field(
        default=0.0, ge=0, le=0.1, description="seconds to wait for more rows before a batch starts"
    )
    shared: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="with workers: one process owns the device and scores for all; auto: on for a GPU",
    )
    hang_timeout: float = Field(
        default=10.0,
        gt=0.001,
        le=HOUR,
        description="seconds a batch may run before the device counts as failed",
    )

"""The section `models`."""

from pathlib import Path

from pydantic import Field

from animora_server.settings.section import DAY, Section


class ModelSettings(Section):
    """The model store and what is kept of it."""

    store: str = Field(
        default="",
        description="folder, file:// or s3:// URL of the model store; empty serves the heuristic alone",
    )
    verify_key: Path | None = Field(
        default=None,
        description="PEM file with a public key; a version not signed with its private key is refused",
    )
    trusted: bool = Field(
        default=False,
        description="load native code of unsigned versions as well: anyone who can write to the "
        "store may then run code in this server",
    )
    max_bytes: int = Field(
        default=16 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="bytes that a version's files may have in total; a larger one is refused unread, as is "
        "one larger than a quarter of the memory",
    )
    preflight: bool = Field(
        default=True,
        description="open and replay a new version in a child process first",
    )
    poll_interval: float = Field(
        default=2.0, gt=0.001, le=DAY, description="seconds between reads of the ACTIVE pointer"
    )
    resident: int = Field(
        default=2, ge=1, le=8, description="versions kept on the device, the active one included"
    )
    ready_requires_model: bool = Field(default=False, description="be NOT_SERVING until a model is loaded")

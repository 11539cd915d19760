"""The manifest of a version: what the model is, what made it, and the digest of every file."""

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from animora_artifact.errors import ArtifactRejected, RejectionReason

FORMAT = 1
VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"

VersionName = Annotated[str, Field(pattern=VERSION_PATTERN, max_length=64)]
FileName = Literal["model.ts", "vocabulary.npz", "golden.npz", "score.so"]


def is_name(text: str) -> bool:
    """Whether a version can be called so: no path, no dot-dot, at most 64 characters."""
    return len(text) <= 64 and re.fullmatch(VERSION_PATTERN, text) is not None


def checked_name(version: str) -> str:
    """The name itself.

    Raises:
        ArtifactRejected: A version cannot be called so.
    """
    if not is_name(version):
        raise ArtifactRejected(RejectionReason.MANIFEST, "that is not a version's name")
    return version


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Dimensions(_Part):
    """Sizes of the network's inputs and layers; image and caption are 0 where a model takes none."""

    users: int = Field(ge=1, description="rows of the user tables, the unknown row 0 included")
    posts: int = Field(ge=1, description="rows of the post tables, the unknown row 0 included")
    factors: int = Field(ge=1)
    mlp_embedding: int = Field(ge=1)
    hidden: tuple[int, ...] = Field(min_length=1)
    image: int = Field(ge=0)
    caption: int = Field(ge=0)
    post_vector: int = Field(ge=1, description="width of what encode_posts returns")


class DataWindow(_Part):
    """The interactions that the model was fitted on."""

    start: datetime | None
    end: datetime | None
    interactions: int = Field(ge=0)


Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# The loosest tolerances that a version can ask for.
MAX_FLOAT32, MAX_HALF, MIN_TOP10_OVERLAP = 1e-4, 0.05, 0.5


class Tolerances(_Part):
    """How far a replay of the golden rows may be from the recorded probabilities.

    What a manifest says counts within limits: no version can declare that any probability will do.
    """

    float32: Tolerance = 1e-5
    half: Tolerance = 2e-3
    top10_overlap: Tolerance = 0.99

    def within_limits(self) -> "Tolerances":
        """The tolerances that a replay is held to."""
        return Tolerances(
            float32=min(self.float32, MAX_FLOAT32),
            half=min(self.half, MAX_HALF),
            top10_overlap=max(self.top10_overlap, MIN_TOP10_OVERLAP),
        )


class FileDigest(_Part):
    """One file of the version."""

    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(_Part):
    """Everything about a version but its weights. Unknown fields are ignored, for newer writers."""

    format: int = FORMAT
    version: VersionName
    created_at: AwareDatetime
    dimensions: Dimensions
    data_window: DataWindow
    hyperparameters: dict[str, str | int | float | bool | list[int]] = {}
    metrics: dict[str, float] = {}
    tolerances: Tolerances = Tolerances()
    files: dict[FileName, FileDigest]

    @classmethod
    def parse(cls, text: bytes) -> "Manifest":
        """Reads a manifest.

        Raises:
            ArtifactRejected: It is not JSON, lacks a field, or is of another format.
        """
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ArtifactRejected(RejectionReason.MANIFEST, f"{field}: {first['msg']}") from error
        if manifest.format != FORMAT:
            raise ArtifactRejected(
                RejectionReason.FORMAT, f"format {manifest.format}, this program reads {FORMAT}"
            )
        return manifest

    def to_json(self) -> bytes:
        """The manifest as indented JSON, for people too."""
        return self.model_dump_json(indent=2).encode() + b"\n"

"""The manifest of a version: dimensions, provenance, metrics, and a digest of each file."""

import re
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from animora_artifact.errors import ArtifactRejected, RejectionReason

FORMAT = 1
# Folder of a store with marks of verified versions.
MARKS = ".verified"
VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"

VersionName = Annotated[str, Field(pattern=VERSION_PATTERN, max_length=64)]
FileName = Literal["model.ts", "vocabulary.npz", "golden.npz", "score.so"]


def is_name(text: str) -> bool:
    """Whether a text is a valid version name: no path separators, no leading dot, at most 64 characters."""
    return len(text) <= 64 and re.fullmatch(VERSION_PATTERN, text) is not None


def checked_name(version: str) -> str:
    """Returns a version name if it is valid.

    Raises:
        ArtifactRejected: The name is not valid.
    """
    if not is_name(version):
        raise ArtifactRejected(RejectionReason.MANIFEST, "that is not a version's name")
    return version


class _ManifestPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Dimensions(_ManifestPart):
    """Sizes of a network's inputs and layers; image and caption are 0 if the model takes none."""

    users: int = Field(ge=1, description="rows of the user tables, the unknown row 0 included")
    posts: int = Field(ge=1, description="rows of the post tables, the unknown row 0 included")
    factors: int = Field(ge=1)
    mlp_embedding: int = Field(ge=1)
    hidden: tuple[int, ...] = Field(min_length=1)
    image: int = Field(ge=0)
    caption: int = Field(ge=0)
    post_vector: int = Field(ge=1, description="width of what encode_posts returns")


class DataWindow(_ManifestPart):
    """Time span and number of the interactions that the model was trained on."""

    start: datetime | None
    end: datetime | None
    interactions: int = Field(ge=0)


Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Limits of the tolerances that a manifest may declare.
MAX_FLOAT32, MAX_HALF, MIN_TOP10_OVERLAP = 1e-4, 0.05, 0.5


class Tolerances(_ManifestPart):
    """Tolerances for the replay of the golden rows, clamped by `within_limits`."""

    float32: Tolerance = 1e-5
    half: Tolerance = 2e-3
    top10_overlap: Tolerance = 0.99

    def within_limits(self) -> "Tolerances":
        """The tolerances, clamped to the allowed limits."""
        return Tolerances(
            float32=min(self.float32, MAX_FLOAT32),
            half=min(self.half, MAX_HALF),
            top10_overlap=max(self.top10_overlap, MIN_TOP10_OVERLAP),
        )


class FileDigest(_ManifestPart):
    """One file of the version."""

    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


# Keys of differences that are not version names; they are not valid version names.
HEURISTIC, PARENT = "the heuristic", "its parent"
# Metric: standard error of NDCG@10.
STANDARD_ERROR = "ndcg@10_standard_error"


class PairedDifference(_ManifestPart):
    """Difference in NDCG@10 of a version and another model on held-out pairs that neither was trained on.

    With `pairs=0`, `basis` says why they were not compared.
    """

    ndcg: float = Field(default=0.0, allow_inf_nan=False)
    other: float = Field(default=0.0, allow_inf_nan=False, description="the other one's NDCG@10")
    low: float = Field(
        default=0.0, allow_inf_nan=False, description="of the difference's 95 % interval, by paired bootstrap"
    )
    high: float = Field(default=0.0, allow_inf_nan=False)
    pairs: int = Field(ge=0)
    basis: str = Field(description="which pairs, or why there are none")

    @property
    def mean(self) -> float:
        """Mean difference; negative if the version is worse."""
        return self.ndcg - self.other

    def is_worse(self, margin: float) -> bool:
        """Whether the version is significantly worse, and by more than a margin."""
        return self.pairs > 0 and self.high < 0 and self.mean < -margin


class Manifest(_ManifestPart):
    """The manifest of a version. Unknown fields are ignored, for compatibility with newer writers."""

    format: int = FORMAT
    version: VersionName
    created_at: AwareDatetime
    dimensions: Dimensions
    data_window: DataWindow
    hyperparameters: dict[str, str | int | float | bool | list[int]] = {}
    metrics: dict[str, float] = {}
    differences: dict[str, PairedDifference] = Field(
        default={}, description="by what the version was compared with: another one's name, or words"
    )
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
        """The manifest as indented JSON."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def mark_of(manifest: Manifest) -> bytes:
    """Content of the mark of a verified version: digest of the manifest, and this release."""
    return f"{sha256(manifest.to_json()).hexdigest()} {version('animora-ranking')}\n".encode()

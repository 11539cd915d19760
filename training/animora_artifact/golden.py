"""Golden rows: recorded inputs and probabilities that are replayed whenever a version is loaded."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from animora_artifact.errors import ArtifactRejected, RejectionReason
from animora_artifact.manifest import Dimensions
from animora_artifact.npz import Expected, read_npz, to_npz

# A replay has a few hundred pairs; a larger one could take minutes or gigabytes.
MAX_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and outputs of the trained eager network, in float32.

    Attributes:
        user_rows: int64 (b), the users of the requests.
        segments: int64 (m), the request (index into user_rows) of each scored pair.
        post_rows: int64 (p), the posts' rows, 0 for unknown ones.
        image: float32 (p, image width), zeros where absent.
        caption: float32 (p, caption width), zeros where absent.
        post_index: int64 (m), the post (index into post_rows) of each scored pair.
        probabilities: float32 (m), sigmoid of the logits.
    """

    user_rows: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    post_rows: npt.NDArray[np.int64]
    image: npt.NDArray[np.float32]
    caption: npt.NDArray[np.float32]
    post_index: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    def error(self, replayed: npt.NDArray[np.float32]) -> float:
        """Largest absolute error of replayed probabilities float32 (m); inf if one is not finite."""
        if not np.isfinite(replayed).all():
            return float("inf")
        return float(np.abs(replayed - self.probabilities).max(initial=0.0))

    def overlap(self, replayed: npt.NDArray[np.float32], best: int = 10) -> float:
        """Overlap of each user's `best` posts between recorded and replayed probabilities float32 (m).

        Returns:
            Mean share over the users with posts; 1 without such users.
        """
        shares = []
        for user in range(len(self.user_rows)):
            pairs = np.flatnonzero(self.segments == user)
            recorded, found = (
                pairs[np.argsort(-values[pairs], kind="stable")[:best]]
                for values in (self.probabilities, replayed)
            )
            if len(pairs):
                shares.append(len(np.intersect1d(recorded, found)) / len(recorded))
        return float(np.mean(shares)) if shares else 1.0

    def check(self, dimensions: Dimensions) -> None:
        """Checks that a network of these dimensions takes the inputs.

        Raises:
            ArtifactRejected: There are no pairs or too many, an array has another shape, a row or an index is
                out of range, an embedding is not finite, or a probability is outside of [0, 1].
        """
        pairs, posts = len(self.post_index), len(self.post_rows)
        if not 0 < pairs <= MAX_ROWS or max(len(self.user_rows), posts) > MAX_ROWS:
            raise ArtifactRejected(
                RejectionReason.GOLDEN,
                f"golden.npz has {pairs} pairs of {len(self.user_rows)} users and {posts} posts; "
                f"must have at least one pair and at most {MAX_ROWS} of each",
            )
        for name, array, shape in (
            ("segments", self.segments, (pairs,)),
            ("probabilities", self.probabilities, (pairs,)),
            ("image", self.image, (posts, dimensions.image)),
            ("caption", self.caption, (posts, dimensions.caption)),
        ):
            if array.shape != shape:
                raise ArtifactRejected(
                    RejectionReason.DIMENSIONS, f"golden.npz: {name} has shape {array.shape}; must be {shape}"
                )
        for name, rows, size in (
            ("user_rows", self.user_rows, dimensions.users),
            ("post_rows", self.post_rows, dimensions.posts),
            ("segments", self.segments, len(self.user_rows)),
            ("post_index", self.post_index, posts),
        ):
            if len(rows) and not (rows.min() >= 0 and rows.max() < size):
                raise ArtifactRejected(
                    RejectionReason.DIMENSIONS, f"golden.npz: {name} must be in [0, {size})"
                )
        if not (np.isfinite(self.image).all() and np.isfinite(self.caption).all()):
            raise ArtifactRejected(RejectionReason.GOLDEN, "golden.npz: an embedding is not finite")
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():
            raise ArtifactRejected(RejectionReason.GOLDEN, "golden.npz: a probability is outside of [0, 1]")

    @classmethod
    def from_npz(cls, data: bytes) -> Self:
        """Reads `golden.npz`.

        Raises:
            ArtifactRejected: See `read_npz`.
        """
        rows, embeddings = Expected(np.int64, 1), Expected(np.float32, 2)
        return cls(
            **read_npz(
                data,
                {
                    "user_rows": rows,
                    "segments": rows,
                    "post_rows": rows,
                    "image": embeddings,
                    "caption": embeddings,
                    "post_index": rows,
                    "probabilities": Expected(np.float32, 1),
                },
            )
        )

    def to_npz(self) -> bytes:
        """The content of `golden.npz`."""
        return to_npz({field.name: getattr(self, field.name) for field in fields(self)})

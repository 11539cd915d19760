"""Golden rows: inputs and the trained network's probabilities, replayed before a version serves."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from animora_artifact.npz import read_npz, to_npz


@dataclass(frozen=True, slots=True)
class Golden:
    """Recorded inputs and outputs of the eager network, in float32.

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
        """The largest absolute difference of probabilities float32 (m) to the record; inf if not finite."""
        if not np.isfinite(replayed).all():
            return float("inf")
        return float(np.abs(replayed - self.probabilities).max(initial=0.0))

    def overlap(self, replayed: npt.NDArray[np.float32], best: int = 10) -> float:
        """What share of each user's best posts by the record is among those by probabilities float32 (m).

        Returns:
            The mean over the users who have posts; 1 where nobody has.
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

    @classmethod
    def from_npz(cls, data: bytes) -> Self:
        """Reads `golden.npz`.

        Raises:
            ArtifactRejected: An array is missing or of another type.
        """
        expected: dict[str, tuple[type[np.generic], int]] = {
            "user_rows": (np.int64, 1),
            "segments": (np.int64, 1),
            "post_rows": (np.int64, 1),
            "image": (np.float32, 2),
            "caption": (np.float32, 2),
            "post_index": (np.int64, 1),
            "probabilities": (np.float32, 1),
        }
        return cls(**read_npz(data, expected))

    def to_npz(self) -> bytes:
        """The content of `golden.npz`."""
        return to_npz({field.name: getattr(self, field.name) for field in fields(self)})

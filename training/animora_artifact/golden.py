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

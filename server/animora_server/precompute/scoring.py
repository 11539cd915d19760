"""The scorer of a run: encodes the posts of a window once, and scores them in the ranking threads.

Equal rows of a matrix product may differ in their last bits, depending on their position. So the order and
the batches in which posts are encoded depend on the posts alone, and the batches in which a chunk of users is
scored depend on the chunk alone: ranking a chunk again gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import DeviceFault
from animora_server.inference.catalog_encoder import has_features
from animora_server.inference.loaded_model import LoadedModel
from animora_server.precompute.rate_limiter import RateLimiter
from animora_server.types import BoolArray, FloatArray, IntArray

ENCODED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """The posts that may be in timelines.

    Attributes:
        snapshot: The catalog.
        rows: int64 (w), catalog rows, in an order that depends on the posts alone.
        positions: int64 (n), for each catalog row its position in `rows`, or -1.
    """

    snapshot: CatalogSnapshot
    rows: IntArray
    positions: IntArray

    @classmethod
    def of(cls, snapshot: CatalogSnapshot, rows: IntArray) -> "Window":
        """The window of posts at catalog rows int64 (w)."""
        positions = np.full(len(snapshot), -1, np.int64)
        positions[rows] = np.arange(len(rows))
        return cls(snapshot, rows, positions)

    @property
    def post_ids(self) -> IntArray:
        """The posts' ids int64 (w), ascending."""
        return np.sort(self.snapshot.post_ids[self.rows])


class WindowScorer:
    """A model and the post vectors of a window, on a device. Thread-safe.

    Args:
        model: The model.
        device: PyTorch's name of the model's device.
        window: The posts.
        batch_rows: Maximum user-post pairs in a batch.
        limiter: Rate limit of batches.
    """

    def __init__(
        self, model: LoadedModel, device: str, window: Window, batch_rows: int, limiter: RateLimiter
    ) -> None:
        self._model = model
        self._device = torch.device(device)
        self._window = window
        self._batch_rows = batch_rows
        self._limiter = limiter
        self._vectors = torch.empty(0)  # floating (w, d), once encoded
        self._has_features: BoolArray = np.empty(0, np.bool_)  # (w)

    @property
    def version(self) -> str:
        """The model's version."""
        return self._model.manifest.version

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """The users' rows int64 (b) in the model, 0 for users that it was not trained on."""
        return self._model.users.rows(user_ids)

    def has_features(self, rows: IntArray) -> BoolArray:
        """Bool (m): whether the model knows the id or an embedding of posts at catalog rows int64 (m)."""
        has_features: BoolArray = self._has_features[self._window.positions[rows]]
        return has_features

    @torch.inference_mode()
    def encode(self) -> None:
        """Encodes the posts. To be called once, before `score`.

        Raises:
            DeviceFault: The device failed.
        """
        start_thread()
        snapshot, window = self._window.snapshot, self._window.rows
        width = self._model.manifest.dimensions.post_vector
        post_rows = self._model.posts.rows(snapshot.post_ids[window])  # int64 (w), 0 unknown
        self._has_features = has_features(self._model.manifest, snapshot, window, post_rows)
        vectors = torch.zeros((len(window), width), device=self._device, dtype=self._model.dtype)
        try:
            for start in range(0, len(window), ENCODED_AT_ONCE):
                at = slice(start, start + ENCODED_AT_ONCE)
                image, caption = self._model.features(*snapshot.embeddings.take(window[at]))
                vectors[at] = self._model.network.encode_posts(
                    torch.from_numpy(post_rows[at]).to(self._device),
                    image,
                    caption,
                )
        except RuntimeError as error:
            raise DeviceFault(str(error)) from error
        self._vectors = vectors

    @torch.inference_mode()
    def score(self, user_rows: IntArray, rows: Sequence[IntArray]) -> list[FloatArray]:
        """Scores posts for users.

        Args:
            user_rows: int64 (b), in the model; at least one.
            rows: The posts' catalog rows int64 (m) for each user.

        Returns:
            Logits float32 (m) for each user.

        Raises:
            DeviceFault: The device failed.
            RunStopped: The run was stopped.
        """
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))  # int64 (b)
        segments = np.repeat(np.arange(len(rows)), sizes)  # int64 (pairs)
        positions = self._window.positions[np.concatenate(rows)]  # int64 (pairs)
        values = np.empty(len(positions), np.float32)
        users = torch.from_numpy(user_rows).to(self._device)
        try:
            for start in range(0, len(positions), self._batch_rows):
                at = slice(start, start + self._batch_rows)
                self._limiter.take(len(segments[at]))
                logits = self._model.network.score(
                    users,
                    torch.from_numpy(segments[at]).to(self._device),
                    self._vectors,
                    torch.from_numpy(positions[at]).to(self._device),
                )
                values[at] = logits.float().cpu().numpy()
        except RuntimeError as error:
            raise DeviceFault(str(error)) from error
        return np.split(values, np.cumsum(sizes[:-1]))


def start_thread() -> None:
    """Prepares a thread that encodes or scores: PyTorch uses one core in each, so threads do not compete."""
    torch.set_num_threads(1)

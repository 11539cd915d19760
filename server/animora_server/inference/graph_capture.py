"""Scores in runs of few lengths, each of which was recorded once and is repeated for every batch.

A GPU takes longer to be told the kernels of a batch than to run them, unless it is told of all at once; so
their shapes and memory must be those that were recorded. A batch is padded with row 0 to the next length, a
power of two, and what the padding gives is cut off.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from animora_artifact.network import Network
from animora_server.types import FloatArray, IntArray

SHORTEST = 64


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A run that can be repeated.

    Attributes:
        repeat: Runs once more, on what the memory that it reads holds by then.
        output: Where each repetition leaves its result.
    """

    repeat: Callable[[], object]
    output: Tensor


class GraphRecorder(Protocol):
    """Records runs that read and write the same memory each time. Its recordings run one at a time."""

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """Runs, and makes it repeatable.

        Raises:
            RuntimeError: The device failed.
        """
        ...


class EagerRecorder:
    """Records nothing: a repetition is another run. See Recorder."""

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """See Recorder."""
        output = run()
        return CapturedGraph(lambda: output.copy_(run()), output)


def lengths(max_rows: int) -> list[int]:
    """The powers of two from SHORTEST to the first that has room for so many rows."""
    found = [SHORTEST]
    while found[-1] < max_rows:
        found.append(found[-1] * 2)
    return found


class CapturedScorer:
    """Scores of one network with one piece of device memory, on the thread that asks, one batch at a time.

    Args:
        network: The network.
        vectors: floating (capacity, d), the posts' vectors. What they hold may change.
        max_rows: A longer batch is run in pieces.
        recorder: Makes the recordings.
    """

    def __init__(self, network: Network, vectors: Tensor, max_rows: int, recorder: GraphRecorder) -> None:
        # The longest first: what it needs is enough for the others.
        found = [
            _CapturedLength(network, vectors, length, recorder) for length in reversed(lengths(max_rows))
        ]
        self._lengths = found[::-1]

    def score(self, user_rows: IntArray, rows: IntArray) -> FloatArray:
        """Logits float32 (m); call it in inference mode.

        Args:
            user_rows: int64 (m), the users' rows in the model.
            rows: int64 (m), the posts' rows in the table.
        """
        longest = self._lengths[-1].length
        pieces = [slice(start, start + longest) for start in range(0, len(rows), longest)]
        return np.concatenate([self._piece(user_rows[piece], rows[piece]) for piece in pieces])

    def _piece(self, user_rows: IntArray, rows: IntArray) -> FloatArray:
        return next(fit for fit in self._lengths if fit.length >= len(rows)).score(user_rows, rows)


class _CapturedLength:
    """The recording of one length, with the memory through which a batch goes in and its scores come out."""

    def __init__(self, network: Network, vectors: Tensor, length: int, recorder: GraphRecorder) -> None:
        device = vectors.device
        pinned = device.type == "cuda"  # copied by the device itself
        self.length = length
        self._staged = torch.zeros((2, length), dtype=torch.int64, pin_memory=pinned)
        self._user_rows, self._rows = self._staged.numpy()
        self._inputs = self._staged.to(device, copy=True)
        self._logits = torch.empty(length, pin_memory=pinned)
        users, posts = self._inputs
        every = torch.arange(length, device=device)  # each pair is a request of its own
        self._recording = recorder.record(lambda: network.score(users, every, vectors, posts).float())

    def score(self, user_rows: IntArray, rows: IntArray) -> FloatArray:
        """See CapturedScorer; as many as there is room for, at most."""
        count = len(rows)
        for staged, given in ((self._user_rows, user_rows), (self._rows, rows)):
            staged[:count] = given
            staged[count:] = 0
        self._inputs.copy_(self._staged, non_blocking=True)
        self._recording.repeat()
        self._logits.copy_(self._recording.output)  # waits for all of it
        scores: FloatArray = self._logits[:count].numpy().copy()
        return scores

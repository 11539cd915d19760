"""CUDA graphs: scoring is captured once for each of a few batch lengths and replayed for every batch.

Launching the kernels of a batch one by one takes a GPU longer than executing them; a captured graph launches
all of them at once, with the shapes and memory of the capture. So a batch is padded with row 0 to the next
power of two, and the scores of the padding are dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog
import torch
from torch import Tensor

from animora_artifact.network import Network, is_out_of_memory
from animora_server.types import FloatArray, IntArray

log = structlog.get_logger(__name__)

MIN_LENGTH = 64  # pairs
WARM_UP_RUNS = 3  # TorchScript compiles in its first two runs, which a capture must not contain


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A computation that can be replayed.

    Attributes:
        replay: Computes again from the current content of the captured input memory.
        output: Receives the result of each replay.
    """

    replay: Callable[[], object]
    output: Tensor


class GraphRecorder(Protocol):
    """Records computations that use the same memory each time. Its graphs must be replayed one at a time."""

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """Executes `run` and returns a graph that repeats it.

        Raises:
            RuntimeError: The device failed.
        """
        ...


class EagerRecorder:
    """A GraphRecorder that captures nothing: each replay calls `run` again."""

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """See GraphRecorder."""
        output = run()
        return CapturedGraph(lambda: output.copy_(run()), output)


class CudaGraphs:
    """A GraphRecorder that captures CUDA graphs of the current device, on a separate stream.

    The graphs share one memory pool for intermediate results, so no two of them may be replayed at once.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """See GraphRecorder. A computation that cannot be captured is executed eagerly on each replay."""
        try:
            return self._capture(run)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            log.warning("CUDA graph not captured; executing eagerly", error=str(error))
            return EagerRecorder().record(run)

    def _capture(self, run: Callable[[], Tensor]) -> CapturedGraph:
        self._stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                run()
            # Thread-local: work of another thread on the device is neither captured nor an error.
            # torch.cuda.graph does the same but runs Python's garbage collector first.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = run()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return CapturedGraph(graph.replay, output)


def padded_lengths(max_rows: int) -> list[int]:
    """The powers of two from MIN_LENGTH up to the first that is at least `max_rows`."""
    lengths = [MIN_LENGTH]
    while lengths[-1] < max_rows:
        lengths.append(lengths[-1] * 2)
    return lengths


class CapturedScorer:
    """Scores with one network and one table by captured graphs, on the calling thread, one batch at a time.

    Args:
        network: The network.
        vectors: floating (capacity, d), the post vectors. The values may change, the memory may not.
        max_rows: Pairs of the longest captured batch; a longer batch is split.
        recorder: Captures the graphs.
    """

    def __init__(self, network: Network, vectors: Tensor, max_rows: int, recorder: GraphRecorder) -> None:
        # The longest length first: its memory pool is large enough for the shorter ones.
        lengths = reversed(padded_lengths(max_rows))
        self._lengths = [_CapturedLength(network, vectors, length, recorder) for length in lengths][::-1]

    def score(self, user_rows: IntArray, rows: IntArray) -> FloatArray:
        """Logits float32 (m); call it in inference mode.

        Args:
            user_rows: int64 (m), the users' rows in the model.
            rows: int64 (m), the posts' rows in the table.
        """
        if not len(rows):
            return np.empty(0, np.float32)
        longest = self._lengths[-1].length
        pieces = [slice(start, start + longest) for start in range(0, len(rows), longest)]
        return np.concatenate([self._piece(user_rows[piece], rows[piece]) for piece in pieces])

    def _piece(self, user_rows: IntArray, rows: IntArray) -> FloatArray:
        return next(fit for fit in self._lengths if fit.length >= len(rows)).score(user_rows, rows)


class _CapturedLength:
    """The captured graph of one batch length, with its input and output memory."""

    def __init__(self, network: Network, vectors: Tensor, length: int, recorder: GraphRecorder) -> None:
        device = vectors.device
        pinned = device.type == "cuda"  # the device copies it without the CPU
        self.length = length
        self._host_rows = torch.zeros((2, length), dtype=torch.int64, pin_memory=pinned)
        self._user_rows, self._rows = self._host_rows.numpy()
        self._inputs = self._host_rows.to(device, copy=True)
        self._logits = torch.empty(length, pin_memory=pinned)
        users, posts = self._inputs
        every = torch.arange(length, device=device)  # each pair has its own user
        self._graph = recorder.record(lambda: network.score(users, every, vectors, posts).float())

    def score(self, user_rows: IntArray, rows: IntArray) -> FloatArray:
        """See CapturedScorer. At most `length` pairs."""
        count = len(rows)
        for padded, values in ((self._user_rows, user_rows), (self._rows, rows)):
            padded[:count] = values
            padded[count:] = 0
        self._inputs.copy_(self._host_rows, non_blocking=True)
        self._graph.replay()
        self._logits.copy_(self._graph.output)  # waits for the replay
        scores: FloatArray = self._logits[:count].numpy().copy()
        return scores

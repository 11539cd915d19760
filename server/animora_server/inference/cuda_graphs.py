"""Recording by CUDA graphs: the kernels of a run, launched together whenever it is repeated."""

from collections.abc import Callable

import structlog
import torch
from torch import Tensor

from animora_server.inference.graph_capture import CapturedGraph, EagerRecorder

log = structlog.get_logger(__name__)

# TorchScript compiles in its first two runs, and nothing may be compiled while a graph is captured.
RUNS_BEFORE = 3


class CudaGraphs:
    """Captures graphs on the current device, on a stream of its own; see recorded.Recorder.

    Its graphs share the memory of what they compute on the way, so no two of them may run at once.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """See recorded.Recorder; what cannot be captured is run again each time."""
        try:
            return self._capture(run)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("a run cannot be captured", error=str(error))
            return EagerRecorder().record(run)

    def _capture(self, run: Callable[[], Tensor]) -> CapturedGraph:
        self._stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            for _ in range(RUNS_BEFORE):
                run()
            # Thread-local: what another thread does on the device meanwhile is no part of it, and no error.
            # torch.cuda.graph, which does this too, would have Python collect garbage first.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = run()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return CapturedGraph(graph.replay, output)

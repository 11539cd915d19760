"""The device of this process: a serving thread, a loading thread, and inline execution of short batches."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.network import NETWORK_ERRORS, is_out_of_memory
from animora_server.catalog import EmbeddingFile
from animora_server.errors import ConfigurationError, DeviceFault, NetworkFailed, OutOfDeviceMemory
from animora_server.inference.batch_inference import allocate, copy_rows, encode, run_batch
from animora_server.inference.graph_capture import CudaGraphs, GraphRecorder
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.loading import load_model
from animora_server.inference.preflight import Preflight
from animora_server.inference.protocols import Embeddings
from animora_server.inference.requests import COALITIONS, ExplainRequest, InferenceRequest, ScoreRequest
from animora_server.settings import ScorerSettings
from animora_server.thread_priority import lower_own_priority
from animora_server.types import FloatArray, IntArray

Value = TypeVar("Value")

LOADING_NICENESS = 19  # of the loading thread, as of the command `nice`: below gRPC's I/O threads
INLINE_SECONDS = 0.001  # handing a batch to a thread and back costs more than scoring some hundred posts


class Device:
    """Executes networks on the CPU or a GPU, an async context manager. See InferenceDevice.

    Args:
        settings: The device, its threads, dtype and batch sizes.
        on_fault: Called once, from the serving thread, when a GPU fails. Its memory can no longer be trusted,
            so the process should end and be replaced by its supervisor.
        recorder: Makes the GraphRecorder of one table. By default CUDA graphs on a GPU, none on a CPU.
        preflight: Checks a version in a child process before it is loaded here; None skips that.
        inline_seconds: A CPU batch that is expected to take at most so long is executed on the event loop.

    Raises:
        ConfigurationError: The configured device does not exist.
    """

    def __init__(
        self,
        settings: ScorerSettings,
        on_fault: Callable[[], object],
        recorder: Callable[[], GraphRecorder] | None = None,
        preflight: Preflight | None = None,
        inline_seconds: float = INLINE_SECONDS,
    ) -> None:
        self._settings = settings
        self._on_fault = on_fault
        self._preflight = preflight
        self._inline_seconds = inline_seconds
        self._device = torch.device(resolve_device(settings.device))
        self._recorder = CudaGraphs if recorder is None and self._device.type == "cuda" else recorder
        self._serving = ThreadPoolExecutor(1, "device", initializer=self._start_thread)
        self._loading = ThreadPoolExecutor(1, "loader", initializer=self._start_loading_thread)
        self._faulted = threading.Event()
        self._batch_cost = math.inf, 0.0  # seconds a batch, and seconds a row, as measured last

    def __str__(self) -> str:
        return str(self._device)

    async def __aenter__(self) -> Self:
        """Prepares this thread, which executes the short batches."""
        self._start_thread()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Shuts the threads down without waiting: a hanging one ends with the process."""
        self._serving.shutdown(wait=False, cancel_futures=True)
        self._loading.shutdown(wait=False, cancel_futures=True)

    async def load(self, artifact: Artifact) -> LoadedModel:
        """Loads a version while other versions serve, and replays its golden rows.

        Raises:
            ArtifactRejected: The version does not load or does not reproduce its golden probabilities.
            DeviceFault: The preflight could not be run, or the device failed.
        """
        if self._preflight is not None:
            artifact = await self._preflight.check(artifact)
        return await self._run_on(self._loading, lambda: load_model(artifact, self._device, self._settings))

    async def encode(
        self, model: LoadedModel, post_rows: IntArray, embeddings: Embeddings, table: PostVectors
    ) -> tuple[PostVectors, float]:
        """See batch_inference.encode; executed on the serving thread.

        Returns:
            The table with n more rows, and the seconds that encoding took.

        Raises:
            DeviceFault: The device or the model failed.
        """

        def run() -> tuple[PostVectors, float]:
            started = time.perf_counter()
            longer = encode(model, post_rows, embeddings, table)
            return longer, time.perf_counter() - started

        return await self._run_unattributed(self._serving, run)

    async def allocate(
        self, model: LoadedModel, capacity: int, source: PostVectors | None = None
    ) -> PostVectors:
        """See batch_inference.allocate; executed on the loading thread. On a GPU it captures the CUDA graphs.

        Raises:
            DeviceFault: The device or the model failed.
        """

        def run() -> PostVectors:
            recorder = self._recorder() if self._recorder else None
            return allocate(model, capacity, source, recorder, self._settings.max_batch_rows)

        return await self._run_unattributed(self._loading, run)

    async def copy(self, table: PostVectors, source: int, target: int, rows: int) -> None:
        """See batch_inference.copy_rows; executed on the serving thread. Raises DeviceFault."""
        await self._run_unattributed(self._serving, lambda: copy_rows(table, source, target, rows))

    async def score(self, requests: Sequence[InferenceRequest]) -> list[FloatArray]:
        """Executes one batch, inline if it is short; see batch_inference.run_batch.

        Raises:
            DeviceFault: The device failed.
            NetworkFailed: The network raised an error.
            Exception: As run_batch.
        """
        scores = self.score_inline(requests)
        return (
            await self._run_on(self._serving, lambda: self._execute(requests)) if scores is None else scores
        )

    def score_inline(self, requests: Sequence[InferenceRequest]) -> list[FloatArray] | None:
        """Executes a short batch on the calling thread; None for one that would block the event loop."""
        return self._execute(requests) if self._is_short(requests) else None

    async def warm(self, model: LoadedModel, table: PostVectors, sizes: Sequence[int]) -> tuple[float, float]:
        """Executes every batch size twice, then measures it.

        Args:
            model: The model.
            table: A table of its post vectors.
            sizes: Pairs of each batch, ascending.

        Returns:
            Seconds of a batch of the smallest size, and seconds for each further row.

        Raises:
            DeviceFault: The device or the model failed.
        """

        def run() -> tuple[float, float]:
            seconds = []
            for size in sizes:
                score = ScoreRequest.for_user(model.network, table, 0, np.zeros(size, np.int64))
                posts = np.zeros(max(size // len(COALITIONS), 1), np.int64)
                terms = ExplainRequest(model, 0, posts, posts, EmbeddingFile(None, 0, 0))
                for request in (terms, terms, score, score):
                    run_batch([request])
                seconds.append(min(self._time(score) for _ in range(5)))
            further_rows = max(sizes[-1] - sizes[0], 1)
            self._batch_cost = seconds[0], max(seconds[-1] - seconds[0], 0.0) / further_rows
            return self._batch_cost

        return await self._run_unattributed(self._loading, run)

    def _is_short(self, requests: Sequence[InferenceRequest]) -> bool:
        """Whether a batch is expected to take at most `inline_seconds`."""
        if self._device.type != "cpu":
            return False
        rows = 0
        for request in requests:
            if not isinstance(request, ScoreRequest):
                return False
            rows += len(request.rows)
        fixed, per_row = self._batch_cost
        return fixed + per_row * rows <= self._inline_seconds

    def _start_thread(self) -> None:
        # No TF32, so that a score agrees with the eager network within 1e-5.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(self._settings.threads)
        if self._device.index is not None:  # a GPU was named by its number
            torch.cuda.set_device(self._device)

    def _start_loading_thread(self) -> None:
        lower_own_priority(LOADING_NICENESS)
        self._start_thread()

    def _time(self, request: ScoreRequest) -> float:
        # Other threads take the core from this one, but not from those that serve.
        is_one_thread = self._device.type == "cpu" and self._settings.threads == 1
        clock = time.thread_time if is_one_thread else time.perf_counter
        started = clock()
        run_batch([request])
        return clock() - started

    async def _run_unattributed(self, thread: ThreadPoolExecutor, run: Callable[[], Value]) -> Value:
        """Executes work that belongs to no request, so a failure of the network is a DeviceFault too."""
        try:
            return await self._run_on(thread, run)
        except NETWORK_ERRORS as error:
            raise DeviceFault(str(error)) from error

    async def _run_on(self, thread: ThreadPoolExecutor, run: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(thread, self._run_classifying_errors, run)

    def _execute(self, requests: Sequence[InferenceRequest]) -> list[FloatArray]:
        """Executes a batch; turns errors that the network itself raises into NetworkFailed."""
        try:
            return self._run_classifying_errors(lambda: run_batch(requests))
        except (RuntimeError, torch.jit.Error) as error:
            raise NetworkFailed(f"the network raised {type(error).__name__}: {error}") from error

    def _run_classifying_errors(self, run: Callable[[], Value]) -> Value:
        """Calls `run`; turns errors of the device into DeviceFault or OutOfDeviceMemory."""
        try:
            return run()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfDeviceMemory(str(error)) from error
            if self._device.type == "cuda":
                self._report_fault()
                raise DeviceFault(str(error)) from error
            raise

    def _report_fault(self) -> None:
        if not self._faulted.is_set():
            self._faulted.set()
            self._on_fault()


def resolve_device(device: str) -> str:
    """PyTorch's name of the device to use; `auto` is a GPU if there is one.

    Raises:
        ConfigurationError: The device does not exist.
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise ConfigurationError(f"scorer.device: {device}, but PyTorch finds no GPU: use cpu or auto")
    return device

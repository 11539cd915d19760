"""The device: one thread that serves, one that loads, and short batches that are not worth a thread."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.network import NETWORK_ERRORS, is_out_of_memory
from animora_server.catalog import EmbeddingFile
from animora_server.errors import ConfigurationError, DeviceFault, OutOfDeviceMemory
from animora_server.inference.batch_inference import allocate, copy_rows, encode, run_batch
from animora_server.inference.cuda_graphs import CudaGraphs
from animora_server.inference.graph_capture import GraphRecorder
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.loading import load_model
from animora_server.inference.preflight import Preflight
from animora_server.inference.protocols import Embeddings
from animora_server.inference.requests import ExplainRequest, InferenceRequest, ScoreRequest
from animora_server.inference.terms import COALITIONS
from animora_server.settings import ScorerSettings
from animora_server.types import FloatArray, IntArray

Value = TypeVar("Value")

# A batch that takes a CPU no longer than this runs on the event loop: handing it to a thread and back costs
# more than scoring some hundred posts does.
LOOP_SECONDS = 0.001


class Device:
    """Runs networks on the CPU or a GPU. See protocols.Device.

    `on_fault` is called, once, from the serving thread when a GPU fails: nothing there can be trusted
    any more, and the process should end for its supervisor. `recorder` makes what records the runs of one
    table; by default CUDA graphs on a GPU, and nothing on a CPU. `preflight` checks a version before it is
    loaded.
    """

    def __init__(
        self,
        settings: ScorerSettings,
        on_fault: Callable[[], object],
        recorder: Callable[[], GraphRecorder] | None = None,
        preflight: Preflight | None = None,
    ) -> None:
        self._settings = settings
        self._on_fault = on_fault
        self._preflight = preflight
        self._device = torch.device(resolve_device(settings.device))
        self._recorder = CudaGraphs if recorder is None and self._device.type == "cuda" else recorder
        self._serving = ThreadPoolExecutor(1, "device", initializer=self._start_thread)
        self._loading = ThreadPoolExecutor(1, "loader", initializer=self._start_thread)
        self._faulted = threading.Event()
        self._pace = math.inf, 0.0  # seconds of a batch and of each of its rows, as last measured

    def __str__(self) -> str:
        return str(self._device)

    async def __aenter__(self) -> Self:
        """Starts."""
        self._start_thread()  # short batches run on this one
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the threads end; one that hangs is left to the end of the process."""
        self._serving.shutdown(wait=False, cancel_futures=True)
        self._loading.shutdown(wait=False, cancel_futures=True)

    async def load(self, artifact: Artifact) -> LoadedModel:
        """Loads an artifact beside those that serve and replays its golden rows.

        Raises:
            ArtifactRejected: It does not load, or does not give the recorded probabilities.
            DeviceFault: It could not be checked, or the device failed.
        """
        if self._preflight is not None:
            artifact = await self._preflight.check(artifact)
        return await self._on(self._loading, lambda: load_model(artifact, self._device, self._settings))

    async def encode(
        self, model: LoadedModel, post_rows: IntArray, embeddings: Embeddings, table: PostVectors
    ) -> tuple[PostVectors, float]:
        """Appends post vectors to a table that has room for them; runs on the serving thread.

        Args:
            model: The model.
            post_rows: int64 (n), vocabulary rows of the posts at catalog rows [table.rows, table.rows + n).
            embeddings: Image and caption embeddings by catalog row.
            table: Where to.

        Returns:
            The table with n more rows, and the seconds that it took.
        """

        def run() -> tuple[PostVectors, float]:
            started = time.perf_counter()
            longer = encode(model, post_rows, embeddings, table)
            return longer, time.perf_counter() - started

        return await self._prepare(self._serving, run)

    async def allocate(
        self, model: LoadedModel, capacity: int, source: PostVectors | None = None
    ) -> PostVectors:
        """A table of zeros float (capacity, post vector) that begins with the rows of another.

        Where the device records runs, this is where the model's scores with the table are.
        """

        def run() -> PostVectors:
            recorder = self._recorder() if self._recorder else None
            return allocate(model, capacity, source, recorder, self._settings.max_batch_rows)

        return await self._prepare(self._loading, run)

    async def copy(self, table: PostVectors, source: int, target: int, rows: int) -> None:
        """Copies rows of a table, between requests; see running.copy."""
        await self._prepare(self._serving, lambda: copy_rows(table, source, target, rows))

    async def score(self, works: Sequence[InferenceRequest]) -> list[FloatArray]:
        """Runs the works of one batch, which share a key; results in the same order."""
        done = self.score_inline(works)
        return await self._on(self._serving, lambda: run_batch(works)) if done is None else done

    def score_inline(self, works: Sequence[InferenceRequest]) -> list[FloatArray] | None:
        """The same then and there, on the thread that asks; None where that would hold the event loop up."""
        return self._guarded(lambda: run_batch(works)) if self._is_short(works) else None

    async def warm(self, model: LoadedModel, table: PostVectors, sizes: Sequence[int]) -> tuple[float, float]:
        """Runs every batch size twice, and measures.

        Returns:
            Seconds that a batch of the smallest size takes, and seconds a row beyond it.
        """

        def run() -> tuple[float, float]:
            seconds = []
            for size in sizes:
                score = ScoreRequest.of_one(model.network, table, 0, np.zeros(size, np.int64))
                posts = np.zeros(max(size // len(COALITIONS), 1), np.int64)
                terms = ExplainRequest(model, 0, posts, posts, EmbeddingFile(None, 0, 0))
                for work in (terms, terms, score, score):
                    run_batch([work])
                seconds.append(min(self._time(score) for _ in range(5)))
            more = max(sizes[-1] - sizes[0], 1)
            self._pace = seconds[0], max(seconds[-1] - seconds[0], 0.0) / more
            return self._pace

        return await self._prepare(self._loading, run)

    def _is_short(self, works: Sequence[InferenceRequest]) -> bool:
        """Whether a batch takes the event loop less time than to hand it to a thread is worth."""
        if self._device.type != "cpu":
            return False
        rows = 0
        for work in works:
            if not isinstance(work, ScoreRequest):
                return False
            rows += len(work.rows)
        fixed, per_row = self._pace
        return fixed + per_row * rows <= LOOP_SECONDS

    def _start_thread(self) -> None:
        # Float32 means float32: no TF32, so that a score agrees with the eager network within 1e-5.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(self._settings.threads)
        if self._device.index is not None:  # of a GPU
            torch.cuda.set_device(self._device)

    def _time(self, work: ScoreRequest) -> float:
        started = time.perf_counter()
        run_batch([work])
        return time.perf_counter() - started

    async def _prepare(self, thread: ThreadPoolExecutor, run: Callable[[], Value]) -> Value:
        """Runs what no single request is to blame for: a failure is the device's or the model's."""
        try:
            return await self._on(thread, run)
        except NETWORK_ERRORS as error:
            raise DeviceFault(str(error)) from error

    async def _on(self, thread: ThreadPoolExecutor, run: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(thread, self._guarded, run)

    def _guarded(self, run: Callable[[], Value]) -> Value:
        """Runs on the device, and tells its faults from those of the work."""
        try:
            return run()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfDeviceMemory(str(error)) from error
            if self._device.type == "cuda":
                self._fault()
                raise DeviceFault(str(error)) from error
            raise

    def _fault(self) -> None:
        if not self._faulted.is_set():
            self._faulted.set()
            self._on_fault()


def resolve_device(device: str) -> str:
    """The device that PyTorch shall use.

    Raises:
        ConfigurationError: There is none such.
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise ConfigurationError(f"scorer.device: {device}, but PyTorch finds no GPU: say cpu or auto")
    return device

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
from animora_server.catalog import EmbeddingFile
from animora_server.errors import ConfigurationError, DeviceFault, OutOfDeviceMemory
from animora_server.scorer.explanation import COALITIONS, explain
from animora_server.scorer.loading import load_model
from animora_server.scorer.work import ExplainWork, LoadedModel, PostTable, ScoreWork, Work, as_features
from animora_server.settings import ScorerSettings
from animora_server.types import FloatArray, HalfArray, IntArray

Value = TypeVar("Value")

# A batch that takes a CPU no longer than this runs on the event loop: handing it to a thread and back costs
# more than scoring some hundred posts does.
LOOP_SECONDS = 0.001


class Device:
    """Runs networks on the CPU or a GPU.

    `on_fault` is called, once, from the serving thread when a GPU fails: nothing there can be trusted
    any more, and the process should end for its supervisor.
    """

    def __init__(self, settings: ScorerSettings, on_fault: Callable[[], object]) -> None:
        self._settings = settings
        self._on_fault = on_fault
        self._device = torch.device(_resolve(settings.device))
        self._dtype = torch.float32
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
        """
        return await self._on(
            self._loading, lambda: load_model(artifact, self._device, compiled=self._settings.compiled)
        )

    async def encode(
        self, model: LoadedModel, post_rows: IntArray, embeddings: EmbeddingFile, table: PostTable
    ) -> tuple[PostTable, float]:
        """Appends post vectors to a table that has room for them; runs on the serving thread.

        Args:
            model: The model.
            post_rows: int64 (n), vocabulary rows of the posts at catalog rows [table.rows, table.rows + n).
            embeddings: Image and caption embeddings by catalog row.
            table: Where to.

        Returns:
            The table with n more rows, and the seconds that it took.
        """

        def run() -> tuple[PostTable, float]:
            started = time.perf_counter()
            stop = table.rows + len(post_rows)
            image, caption = embeddings.read(table.rows, stop)
            dimensions = model.manifest.dimensions
            with torch.inference_mode():
                table.vectors[table.rows : stop] = model.network.encode_posts(
                    torch.from_numpy(post_rows).to(self._device),
                    self._features(image, dimensions.image),
                    self._features(caption, dimensions.caption),
                )
            return PostTable(table.vectors, stop), time.perf_counter() - started

        return await self._prepare(self._serving, run)

    async def allocate(self, capacity: int, width: int, source: PostTable | None = None) -> PostTable:
        """A table of zeros float (capacity, width) that begins with the rows of another."""

        def run() -> PostTable:
            vectors = torch.zeros((capacity, width), device=self._device, dtype=self._dtype)
            rows = 0
            if source is not None:
                rows = source.rows
                vectors[:rows] = source.vectors[:rows]
            return PostTable(vectors, rows)

        return await self._prepare(self._loading, run)

    async def score(self, works: Sequence[Work]) -> list[FloatArray]:
        """Runs the works of one batch, which share a key; results in the same order."""
        if self._is_short(works):
            return self._guarded(lambda: self._run(works))
        return await self._on(self._serving, lambda: self._run(works))

    async def warm(self, model: LoadedModel, table: PostTable, sizes: Sequence[int]) -> tuple[float, float]:
        """Runs every batch size twice, and measures.

        Returns:
            Seconds that a batch of the smallest size takes, and seconds a row beyond it.
        """

        def run() -> tuple[float, float]:
            seconds = []
            for size in sizes:
                score = ScoreWork(model.network, table, 0, np.zeros(size, np.int64))
                posts = np.zeros(max(size // len(COALITIONS), 1), np.int64)
                terms = ExplainWork(model, 0, posts, posts, EmbeddingFile(None, 0, 0))
                for work in (terms, terms, score, score):
                    self._run([work])
                seconds.append(min(self._time(score) for _ in range(5)))
            more = max(sizes[-1] - sizes[0], 1)
            self._pace = seconds[0], max(seconds[-1] - seconds[0], 0.0) / more
            return self._pace

        return await self._prepare(self._loading, run)

    def _is_short(self, works: Sequence[Work]) -> bool:
        """Whether a batch takes the event loop less time than to hand it to a thread is worth."""
        if self._device.type != "cpu" or not all(isinstance(work, ScoreWork) for work in works):
            return False
        fixed, per_row = self._pace
        return fixed + per_row * sum(len(work.rows) for work in works) <= LOOP_SECONDS

    def _start_thread(self) -> None:
        # Float32 means float32: no TF32, so that a score agrees with the eager network within 1e-5.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(self._settings.threads)

    def _features(self, embeddings: HalfArray, width: int) -> torch.Tensor:
        """Embeddings (n, w) as the model takes them: (n, width), absent ones as zeros."""
        return as_features(embeddings, width, self._device, self._dtype)

    @torch.inference_mode()
    def _run(self, works: Sequence[Work]) -> list[FloatArray]:
        scored = [work for work in works if isinstance(work, ScoreWork)]
        if scored:  # a batch has one key, and so one kind of work
            return self._score(scored)
        return [self._explain(work) for work in works if isinstance(work, ExplainWork)]

    def _score(self, works: Sequence[ScoreWork]) -> list[FloatArray]:
        first = works[0]
        sizes = np.fromiter((len(work.rows) for work in works), np.int64, len(works))  # int64 (b)
        user_rows = np.fromiter((work.user_row for work in works), np.int64, len(works))  # int64 (b)
        segments = np.repeat(np.arange(len(works)), sizes)  # int64 (m)
        post_index = first.rows if len(works) == 1 else np.concatenate([work.rows for work in works])
        logits = first.network.score(
            torch.from_numpy(user_rows).to(self._device),
            torch.from_numpy(segments).to(self._device),
            first.table.vectors,
            torch.from_numpy(post_index).to(self._device),
        )
        values: FloatArray = logits.float().cpu().numpy()  # float32 (m)
        return np.split(values, np.cumsum(sizes[:-1]))

    def _explain(self, work: ExplainWork) -> FloatArray:
        image, caption = work.embeddings.take(work.rows)
        dimensions = work.model.manifest.dimensions
        return explain(
            work.model.network,
            work.user_row,
            torch.from_numpy(work.post_rows).to(self._device),
            self._features(image, dimensions.image),
            self._features(caption, dimensions.caption),
        )

    def _time(self, work: ScoreWork) -> float:
        started = time.perf_counter()
        self._run([work])
        return time.perf_counter() - started

    async def _prepare(self, thread: ThreadPoolExecutor, run: Callable[[], Value]) -> Value:
        """Runs what no single request is to blame for: a failure is the device's or the model's."""
        try:
            return await self._on(thread, run)
        except (RuntimeError, IndexError) as error:
            raise DeviceFault(str(error)) from error

    async def _on(self, thread: ThreadPoolExecutor, run: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(thread, self._guarded, run)

    def _guarded(self, run: Callable[[], Value]) -> Value:
        """Runs on the device, and tells its faults from those of the work."""
        try:
            return run()
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(str(error)) from error
        except RuntimeError as error:
            if self._device.type == "cuda":
                self._fault()
                raise DeviceFault(str(error)) from error
            raise

    def _fault(self) -> None:
        if not self._faulted.is_set():
            self._faulted.set()
            self._on_fault()


def _resolve(device: str) -> str:
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

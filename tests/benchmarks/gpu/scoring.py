"""The scoring part of `make bench-gpu`: two batch sizes, three dtypes, captured and eager.

A call goes from NumPy arrays to NumPy arrays, as the server's batches do. Beside it the network alone is
timed, with inputs and outputs on the device. Captured and eager scores are compared before anything is timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from animora_artifact.checked import CheckedNetwork
from animora_artifact.network import Network, load_network, save_network
from animora_server.inference.batch_inference import run_batch
from animora_server.inference.graph_capture import (
    CapturedGraph,
    CapturedScorer,
    CudaGraphs,
    EagerRecorder,
    GraphRecorder,
)
from animora_server.inference.loaded_model import PostVectors
from animora_server.inference.requests import ScoreRequest
from animora_server.types import FloatArray, IntArray
from animora_training.modeling.config import FitConfig
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.pipeline.export import FoldedNeuCF, dimensions_of
from tests.benchmarks.gpu.figures import DTYPES, MODES, ROWS, SMALL_ROWS, call_name, speed_name
from tests.benchmarks.gpu.measuring import Options, median_seconds, report, say, wall_seconds

# The widths of the tower are 256-256-128-64: its input are the embeddings of a user and of a post.
WIDE = FitConfig(factors=64, mlp_embedding=128, hidden=(256, 128, 64))
USERS, POSTS = 50_000, 100_000
POSTS_PER_USER = 1_024  # of a batch
STD = 0.1  # of the random weights: probabilities of all sizes
CLOSE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}  # of probabilities, captured and eager
SMALL_USERS, SMALL_POSTS = 500, 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs to score.

    Attributes:
        users: int64 (b).
        sizes: int64 (b), posts of each user.
        rows: int64 (m), rows of the table.
    """

    users: IntArray
    sizes: IntArray
    rows: IntArray

    @classmethod
    def random(cls, rows: int, users: int, posts: int) -> "Batch":
        """Pairs of users with POSTS_PER_USER random posts each."""
        random = np.random.default_rng(rows)
        each = min(rows, POSTS_PER_USER)
        count = rows // each
        return cls(
            random.integers(1, users, count), np.full(count, each), random.integers(0, posts, count * each)
        )


def random_network(users: int, posts: int) -> tuple[bytes, NetworkShape, Tensor]:
    """A wide network with random weights: its model file, its shape, its post vectors float32 (posts, d)."""
    torch.manual_seed(0)
    shape = NetworkShape(
        users, posts, WIDE.factors, WIDE.mlp_embedding, WIDE.hidden, WIDE.feature_width, image=0, caption=0
    )
    network = NeuCF(shape)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.normal_(std=STD)
    folded = FoldedNeuCF(network).eval()
    return save_network(folded), shape, folded.post_table.detach()


@torch.inference_mode()
def measure(
    network: Network, table: Tensor, users: int, dtype: str, sizes: tuple[int, ...], budget: float
) -> None:
    """Reports the figures of a dtype.

    Args:
        network: The network, on the device.
        table: floating (posts, d), the post vectors, on the device.
        users: Number of users.
        dtype: Name of the network's dtype.
        sizes: Rows of the batches.
        budget: Seconds to spend.

    Raises:
        RuntimeError: Captured and eager scores differ, or the device lacks the dtype.
    """
    began = time.perf_counter()
    recorder: GraphRecorder = CudaGraphs() if table.device.type == "cuda" else EagerRecorder()
    captured = PostVectors(table, len(table), CapturedScorer(network, table, max(sizes), recorder))
    say(f"scoring: {dtype}, all lengths captured in {time.perf_counter() - began:.1f} s")
    tables = dict(zip(MODES, (captured, replace(captured, captured=None)), strict=True))
    each = budget / (2 * len(sizes) * len(MODES))
    for rows in sizes:
        batch = Batch.random(rows, users, len(table))
        calls = {mode: _call(network, tables[mode], batch) for mode in MODES}
        _compare(dtype, *(call() for call in calls.values()))
        graph = _network_alone(network, table, batch, recorder)
        eager = _network_alone(network, table, batch, EagerRecorder())
        for mode, alone in zip(MODES, (graph, eager), strict=True):
            for _ in range(3):
                calls[mode]()
            seconds = wall_seconds(calls[mode], time.perf_counter() + each)
            report(call_name(rows, dtype, mode), seconds * 1e6)
            seconds = median_seconds(alone.replay, table.device, each)
            report(speed_name(rows, dtype, mode), len(batch.rows) / seconds)


def _call(network: Network, table: PostVectors, batch: Batch) -> Callable[[], FloatArray]:
    request = ScoreRequest(network, table, batch.users, batch.sizes, batch.rows)
    return lambda: run_batch([request])[0]


def _network_alone(network: Network, table: Tensor, batch: Batch, recorder: GraphRecorder) -> CapturedGraph:
    segments = np.arange(len(batch.sizes)).repeat(batch.sizes)
    users, index, rows = (
        torch.from_numpy(column).to(table.device) for column in (batch.users, segments, batch.rows)
    )
    return recorder.record(partial(network.score, users, index, table, rows))


def _compare(dtype: str, *sides: FloatArray) -> None:
    first, second = (1 / (1 + np.exp(-logits)) for logits in sides)
    if not (difference := float(np.abs(first - second).max())) <= CLOSE[dtype]:  # NaN is not close
        raise RuntimeError(f"captured and eager scores differ by {difference:g} in probability")


def main(options: Options) -> None:
    """Measures each dtype within its part of the time."""
    began = time.perf_counter()
    users, posts = (SMALL_USERS, SMALL_POSTS) if options.small else (USERS, POSTS)
    sizes = SMALL_ROWS if options.small else ROWS
    model, shape, post_table = random_network(users, posts)
    for number, dtype in enumerate(DTYPES):
        kind: torch.dtype = getattr(torch, dtype)
        network = CheckedNetwork(load_network(model, options.device, kind), dimensions_of(shape))
        left = options.seconds - (time.perf_counter() - began)
        # A third is left for compiling and capturing.
        budget = 2 / 3 * left / (len(DTYPES) - number)
        try:
            measure(network, post_table.to(options.device, kind), users, dtype, sizes, max(budget, 0.1))
        except RuntimeError as error:
            say(f"scoring: {dtype} failed: {error}")


if __name__ == "__main__":
    main(Options.parse())

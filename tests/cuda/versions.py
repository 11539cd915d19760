"""Versions of a small network of NeuCF's kind, and tables of post vectors on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from animora_server.inference.batch_inference import allocate, encode, run_batch
from animora_server.inference.graph_capture import CudaGraphs, EagerRecorder, GraphRecorder
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.requests import ScoreRequest
from animora_server.types import FloatArray, HalfArray, IntArray
from animora_training.modeling.config import FitConfig
from tests.benchmarks.growth.version import IMAGE

CONFIG = FitConfig(factors=16, mlp_embedding=32, hidden=(64, 32, 16), feature_width=16)
POSTS = 400  # in a table
LONGEST = 1024  # pairs of a captured batch


@dataclass(frozen=True, slots=True)
class RandomImages:
    """Images float16 (n, IMAGE) decided by their rows, without captions."""

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        return self.take(np.arange(start, stop))

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        images = np.sin(rows[:, None] * np.arange(1, IMAGE + 1)).astype(np.float16)
        return images, np.empty((len(rows), 0), np.float16)


def recorder_of(device: torch.device) -> GraphRecorder:
    return CudaGraphs() if device.type == "cuda" else EagerRecorder()


def new_table(model: LoadedModel, recorder: GraphRecorder | None) -> PostVectors:
    """A table of POSTS encoded posts; with a recorder its batches are captured."""
    table = allocate(model, POSTS, None, recorder, LONGEST)
    return encode(model, np.arange(1, POSTS + 1), RandomImages(), table)


def requests(model: LoadedModel, table: PostVectors, sizes: Sequence[int], seed: int) -> list[ScoreRequest]:
    """A request of a random user for each size: random posts of the table."""
    random = np.random.default_rng(seed)
    return [
        ScoreRequest.for_user(
            model.network, table, int(random.integers(1, 1000)), random.integers(0, POSTS, size)
        )
        for size in sizes
    ]


def scores(model: LoadedModel, table: PostVectors, sizes: Sequence[int], seed: int) -> FloatArray:
    """Logits float32 (m) of one batch of `requests`."""
    return np.concatenate(run_batch(requests(model, table, sizes, seed)))

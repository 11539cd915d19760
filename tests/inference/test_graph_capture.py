"""Padding changes no score, and replayed batches use the captured memory."""

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from animora_artifact.network import Network
from animora_server.inference.graph_capture import (
    CapturedGraph,
    CapturedScorer,
    CudaGraphs,
    EagerRecorder,
    padded_lengths,
)
from tests.support.artifacts import POSTS, USERS, WIDTH, TinyNetwork

ROWS = 300


class CallRecordingNetwork(TinyNetwork):
    """Records the batches that it scores and their memory addresses."""

    def __init__(self) -> None:
        super().__init__(seed=0, image=0, caption=0)
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.addresses: set[tuple[int, ...]] = set()

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        self.batches.append((user_rows.clone(), post_index.clone()))
        tensors = (user_rows, segments, post_table, post_index)
        self.addresses.add(tuple(tensor.data_ptr() for tensor in tensors))
        return super().score(user_rows, segments, post_table, post_index)


class CountingRecorder(EagerRecorder):
    """Counts the captured graphs."""

    def __init__(self) -> None:
        self.count = 0

    def record(self, run: Callable[[], Tensor]) -> CapturedGraph:
        self.count += 1
        return super().record(run)


@pytest.fixture
def network():
    return CallRecordingNetwork()


@pytest.fixture
def vectors():
    return torch.randn(len(POSTS), WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def scores(network, vectors):
    with torch.inference_mode():
        captured = CapturedScorer(cast(Network, network), vectors, ROWS, EagerRecorder())
    network.batches.clear()
    return torch.inference_mode()(captured.score)


def pairs(count):
    random = np.random.default_rng(count)
    return random.integers(0, len(USERS) + 1, count), random.integers(0, len(POSTS), count)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, [64]), (64, [64]), (65, [64, 128]), (1000, [64, 128, 256, 512, 1024])],
)
def test_lengths_are_powers_of_two_up_to_the_longest_batch(rows, expected):
    assert padded_lengths(rows) == expected


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 127, 128, 300, 512, 513, 1500])
def test_padding_changes_no_score(network, vectors, scores, count):
    user_rows, rows = pairs(count)
    with torch.inference_mode():
        expected = network.forward(torch.from_numpy(user_rows), vectors[torch.from_numpy(rows)])
    assert np.array_equal(scores(user_rows, rows), expected.numpy())


def test_a_batch_is_padded_with_row_0(network, scores):
    scores(*pairs(64))
    user_rows, rows = pairs(3)
    scores(user_rows, rows)
    padded_users, padded_rows = network.batches[-1]
    assert padded_users.tolist() == [*user_rows, *[0] * 61]
    assert padded_rows.tolist() == [*rows, *[0] * 61]


def test_a_batch_is_padded_to_the_next_length_and_a_too_long_one_is_split(network, scores):
    for count in (64, 65, 300, 600):
        scores(*pairs(count))
    assert [len(rows) for _, rows in network.batches] == [64, 128, 512, 512, 128]


def test_every_length_is_captured_once_and_replayed_in_the_same_memory(network, vectors):
    recorder = CountingRecorder()
    with torch.inference_mode():
        captured = CapturedScorer(cast(Network, network), vectors, ROWS, recorder)
        addresses = set(network.addresses)
        assert recorder.count == len(addresses) == len(padded_lengths(ROWS))
        for count in (1, 300, 64, 65, 200, 512, 7):
            captured.score(*pairs(count))
    assert recorder.count == len(padded_lengths(ROWS))
    assert network.addresses == addresses


def test_scores_of_a_batch_are_not_overwritten_by_the_next(scores):
    first = scores(*pairs(10))
    kept = first.copy()
    scores(*pairs(11))
    assert np.array_equal(first, kept)


def test_vectors_written_after_the_capture_are_scored(network, vectors, scores):
    user_rows, rows = pairs(20)
    vectors *= 2
    with torch.inference_mode():
        expected = network.forward(torch.from_numpy(user_rows), vectors[torch.from_numpy(rows)])
    assert np.array_equal(scores(user_rows, rows), expected.numpy())


def test_scores_are_float32_in_half_precision_too(network, vectors):
    half = network.half()
    with torch.inference_mode():
        captured = CapturedScorer(cast(Network, half), vectors.half(), ROWS, EagerRecorder())
        assert captured.score(*pairs(5)).dtype == np.float32


def test_a_batch_without_pairs_has_no_scores(scores):
    assert scores(*pairs(0)).shape == (0,)


class FailingCapture(CudaGraphs):
    """A capture that fails, on any machine."""

    def __init__(self, message: str) -> None:
        self.message = message

    def _capture(self, run: Callable[[], Tensor]) -> CapturedGraph:
        raise RuntimeError(self.message)


def test_a_computation_that_cannot_be_captured_is_executed_eagerly():
    graph = FailingCapture("operation not permitted when stream is capturing").record(lambda: torch.ones(2))
    graph.output.zero_()
    graph.replay()
    assert graph.output.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_a_capture_without_memory_raises_whichever_words_torchscript_gives(message):
    with pytest.raises(RuntimeError, match=message):
        FailingCapture(message).record(lambda: torch.ones(2))

"""Scoring on a device: captured graphs, pinned memory, half precision, and memory that runs out."""

import threading
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from animora_artifact import Artifact
from animora_artifact.network import Network, is_out_of_memory, load_network, save_network
from animora_server.inference.batch_inference import run_batch
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.loading import load_model
from animora_server.inference.requests import ScoreRequest
from animora_server.settings import ScorerSettings
from tests.benchmarks.growth.version import random_version
from tests.cuda.versions import CONFIG, LONGEST, new_table, recorder_of, requests, scores
from tests.support.artifacts import WIDTH, TinyNetwork

FLOAT32 = ScorerSettings(compiled=False)
CLOSE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of logits


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return random_version(CONFIG)


@pytest.fixture
def model(artifact, device) -> LoadedModel:
    return load_model(artifact, device, FLOAT32)


def test_every_length_is_captured(model, device):
    with capture_logs() as logs:
        new_table(model, recorder_of(device))
    assert not logs


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_captured_batches_have_the_scores_of_eager_execution(artifact, device, dtype):
    model = load_model(artifact, device, ScorerSettings(compiled=False, dtype=dtype))
    captured, eager = new_table(model, recorder_of(device)), new_table(model, None)
    for seed, sizes in enumerate([(1,), (64,), (3, 200, 0, 40), (LONGEST,), (LONGEST, 900)]):
        expected = scores(model, eager, sizes, seed)
        found = scores(model, captured, sizes, seed)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=CLOSE[model.dtype])


def test_half_precision_is_used_and_its_probabilities_are_close_to_those_of_float32(artifact, device):
    half = load_model(artifact, device, ScorerSettings(compiled=False, dtype="float16"))
    assert half.dtype == torch.float16
    single = load_model(artifact, device, FLOAT32)
    both = [scores(model, new_table(model, recorder_of(device)), (500,), seed=1) for model in (half, single)]
    found, expected = (1 / (1 + np.exp(-logits)) for logits in both)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_batches_one_after_another_do_not_overwrite_each_others_pinned_memory(model, device):
    captured, eager = new_table(model, recorder_of(device)), new_table(model, None)
    sizes = np.random.default_rng(0).integers(1, LONGEST, 300).tolist()
    found = [scores(model, captured, (size,), seed) for seed, size in enumerate(sizes)]
    for seed, size in enumerate(sizes):
        np.testing.assert_allclose(found[seed], scores(model, eager, (size,), seed), atol=1e-4)


def test_graphs_are_captured_on_one_thread_while_another_replays(artifact, device):
    first, second = (
        load_model(version, device, FLOAT32) for version in (artifact, random_version(CONFIG, seed=1))
    )
    table, eager = new_table(first, recorder_of(device)), new_table(first, None)
    expected = scores(first, eager, (100, 300), 7)
    later: list[PostVectors] = []
    ended = threading.Event()

    def load() -> None:
        try:
            later.extend(new_table(second, recorder_of(device)) for _ in range(3))
        finally:
            ended.set()

    thread = threading.Thread(target=load)
    with capture_logs() as logs:
        thread.start()
        replays = 0
        while not ended.is_set() or replays < 100:
            np.testing.assert_allclose(scores(first, table, (100, 300), 7), expected, atol=1e-4)
            replays += 1
        thread.join()
    assert not logs
    assert len(later) == 3
    for other in later:
        np.testing.assert_allclose(
            scores(second, other, (50,), 3), scores(second, new_table(second, None), (50,), 3), atol=1e-4
        )


class MemoryHog(TinyNetwork):
    """Allocates more memory than exists when a batch has more than 64 pairs."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        return logits + torch.zeros(1 << 60, device=logits.device).sum() if len(post_index) > 64 else logits


def test_after_memory_ran_out_a_shorter_batch_is_scored(device):
    network: Network = load_network(save_network(MemoryHog(0, image=0, caption=0).eval()), device)
    table = PostVectors(torch.ones(8, WIDTH, device=device), 8)
    long, short = (ScoreRequest.for_user(network, table, 1, np.zeros(rows, np.int64)) for rows in (65, 64))
    for _ in range(3):
        with pytest.raises(RuntimeError) as raised:
            run_batch([long])
        assert is_out_of_memory(cast(Exception, raised.value))
        assert len(run_batch([short])[0]) == 64


def test_a_row_out_of_range_is_refused_before_it_reaches_the_device(model, device):
    table = new_table(model, recorder_of(device))
    (request,) = requests(model, table, (5,), seed=0)
    with pytest.raises(IndexError):
        run_batch([replace(request, rows=np.array([0, 400]), sizes=np.array([2]))])
    assert len(run_batch([request])[0]) == 5

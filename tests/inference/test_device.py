import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from animora_artifact.network import Network, save_network
from animora_server.catalog import EmbeddingFile
from animora_server.errors import ConfigurationError, InvalidScores, NetworkFailed, OutOfDeviceMemory
from animora_server.inference.device import Device
from animora_server.inference.loaded_model import PostVectors
from animora_server.inference.requests import ExplainRequest, ScoreRequest
from animora_server.settings import ScorerSettings
from tests.support.artifacts import TinyNetwork, tiny_artifact
from tests.support.faulty_networks import REQUEST_ROWS, RaisesLater


def device_named(name, **arguments):
    return Device(ScorerSettings(device=name), on_fault=lambda: None, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_does_not_exist_is_a_configuration_error(name):
    with pytest.raises(ConfigurationError, match=rf"^scorer\.device: {name}, .* use cpu or auto"):
        device_named(name)


def test_auto_is_a_gpu_if_there_is_one():
    assert str(device_named("auto")) == ("cuda" if torch.cuda.is_available() else "cpu")


class ThreadRecorder:
    """Scores zeros and records the thread that executed it."""

    def __init__(self) -> None:
        self.thread = ""

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        self.thread = threading.current_thread().name
        return torch.zeros(len(post_index))


async def test_a_batch_that_is_measured_and_short_is_executed_inline_and_any_other_on_the_device_thread():
    network, table = ThreadRecorder(), PostVectors(torch.zeros(8, 4), 8)

    async def executing_thread(device: Device) -> str:
        request = ScoreRequest.for_user(cast("Network", network), table, 1, np.zeros(2, np.int64))
        (scores,) = await device.score([request])
        assert scores.tolist() == [0.0, 0.0]
        return network.thread

    here = threading.current_thread().name
    for inline_seconds, is_inline in ((3600.0, True), (0.0, False)):
        async with device_named("cpu", inline_seconds=inline_seconds) as device:
            assert (await executing_thread(device)).startswith("device")  # not measured yet
            model = await device.load(tiny_artifact("v1")[0])
            fixed, per_row = await device.warm(model, table, (1, 64))
            assert fixed > 0
            assert per_row >= 0
            thread = await executing_thread(device)
            assert thread == here if is_inline else thread.startswith("device")


class SizeRecorder:
    """A network that records the number of pairs of each batch that it scores."""

    def __init__(self, network: Network) -> None:
        self.sizes: list[int] = []
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        self.sizes.append(len(post_index))
        return self._network.score(user_rows, segments, post_table, post_index)


@pytest.mark.failure(15)
async def test_every_batch_size_is_executed_twice_before_it_is_measured():
    async with device_named("cpu") as device:
        loaded = await device.load(tiny_artifact("v1")[0])
        network = SizeRecorder(loaded.network)
        model = replace(loaded, network=cast("Network", network))
        table = await device.allocate(model, 8)
        await device.warm(model, table, (1, 64))
    measured = 5
    assert network.sizes == [1] * (2 + measured) + [64] * (2 + measured)


class MemoryHog(TinyNetwork):
    """Allocates more memory than exists when a batch has more than 64 pairs."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        return logits + torch.zeros(1 << 60).sum() if len(post_index) > 64 else logits


@pytest.mark.failure(14)
async def test_a_failed_allocation_of_torchscript_is_out_of_memory_and_not_a_device_fault():
    artifact, _ = tiny_artifact("v1")
    memory_hog = replace(artifact, model=save_network(MemoryHog(0, image=3, caption=2).eval()))
    async with device_named("cpu") as device:
        for version in (artifact, memory_hog):
            model = await device.load(version)
        table = await device.allocate(model, 16)
        two = [ScoreRequest.for_user(model.network, table, 1, np.zeros(rows, np.int64)) for rows in (60, 7)]
        for _ in range(3):
            with pytest.raises(OutOfDeviceMemory):
                await device.score(two)
            (scores,) = await device.score(two[:1])
            assert len(scores) == 60


class WrongShapes(TinyNetwork):
    """Returns wrong shapes for a user who is not in the golden rows."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        return logits[:1] if bool((user_rows == 2).any()) else logits

    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return torch.zeros(1 if bool((user_rows == 2).any()) else post_index.size(0), 3)


async def test_scores_and_terms_of_a_wrong_shape_fail_only_their_request():
    artifact, _ = tiny_artifact("v1")
    artifact = replace(artifact, model=save_network(WrongShapes(0, image=3, caption=2).eval()))
    async with device_named("cpu") as device:
        model = await device.load(artifact)
        table = await device.allocate(model, 16)
        posts = np.zeros(4, np.int64)
        for user_row, is_valid in ((1, True), (2, False), (3, True)):
            requests = (
                ScoreRequest.for_user(model.network, table, user_row, posts),
                ExplainRequest(model, user_row, posts, posts, EmbeddingFile(None, 0, 0)),
            )
            for request in requests:
                with nullcontext() if is_valid else pytest.raises(InvalidScores, match="the network returns"):
                    await device.score([request])


async def test_an_error_that_the_network_raises_leaves_the_device_working():
    failing, working = tiny_artifact("v1", network_type=RaisesLater)[0], tiny_artifact("v2")[0]
    async with device_named("cpu") as device:
        models = [await device.load(version) for version in (failing, working)]
        for model in models:
            table = await device.allocate(model, REQUEST_ROWS)
            request = ScoreRequest.for_user(model.network, table, 1, np.array([3]))
            for _ in range(3):
                with pytest.raises(NetworkFailed) if model is models[0] else nullcontext():
                    await device.score([request])


@pytest.mark.failure(3)
async def test_rows_out_of_range_fail_the_request_and_not_the_device():
    async with device_named("cpu") as device:
        for version in ("v1", "v2"):
            model = await device.load(tiny_artifact(version)[0])
        table = await device.allocate(model, 16)
        for user_row, row in ((1, 16), (1, -1), (99, 0), (-1, 0)):
            with pytest.raises(IndexError):
                await device.score([ScoreRequest.for_user(model.network, table, user_row, np.array([row]))])
        (scores,) = await device.score([ScoreRequest.for_user(model.network, table, 1, np.array([15]))])
        assert scores.tolist() == [0.0]

import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from animora_artifact.network import Network, save_network
from animora_server.catalog import EmbeddingFile
from animora_server.errors import ConfigurationError, InvalidScores, OutOfDeviceMemory
from animora_server.inference.device import LOOP_SECONDS, Device
from animora_server.inference.loaded_model import PostVectors
from animora_server.inference.requests import ExplainRequest, ScoreRequest
from animora_server.settings import ScorerSettings
from tests.inference.artifacts import TinyNetwork, tiny_artifact


def device_named(name):
    return Device(ScorerSettings(device=name), on_fault=lambda: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_where_there_is_none_is_a_wrong_option(name):
    with pytest.raises(ConfigurationError, match=rf"^scorer\.device: {name}, .* say cpu or auto"):
        device_named(name)


def test_auto_takes_what_there_is():
    assert str(device_named("auto")) == ("cuda" if torch.cuda.is_available() else "cpu")


class Witness:
    """Scores zeros, and remembers on which thread."""

    def __init__(self) -> None:
        self.thread = ""

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        self.thread = threading.current_thread().name
        return torch.zeros(len(post_index))


async def test_a_batch_runs_on_the_loop_if_it_is_short_and_on_a_thread_otherwise():
    witness, table = Witness(), PostVectors(torch.zeros(8, 4), 8)

    async def thread_of(device: Device, rows: int) -> str:
        work = ScoreRequest.of_one(cast("Network", witness), table, 1, np.zeros(rows, np.int64))
        (scores,) = await device.score([work])
        assert scores.tolist() == [0.0] * rows
        return witness.thread

    here = threading.current_thread().name
    async with device_named("cpu") as device:
        assert (await thread_of(device, 1)).startswith("device")  # nobody knows yet how long it takes
        model = await device.load(tiny_artifact("v1")[0])
        assert await device.warm(model, table, (1, 64)) == device._pace
        device._pace = 0.0, LOOP_SECONDS / 100
        assert await thread_of(device, 100) == here
        assert (await thread_of(device, 101)).startswith("device")


class Hungry(TinyNetwork):
    """Wants more memory than there is for more than ten pairs at once."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        return logits + torch.zeros(1 << 60).sum() if len(post_index) > 10 else logits


async def test_memory_that_torchscript_does_not_get_is_told_from_a_fault_whichever_model_was_loaded_before():
    artifact, _ = tiny_artifact("v1")
    hungry = replace(artifact, model=save_network(Hungry(0, image=3, caption=2).eval()))
    async with device_named("cpu") as device:
        for version in (artifact, hungry):
            model = await device.load(version)
        table = await device.allocate(model, 16)
        two = [ScoreRequest.of_one(model.network, table, 1, np.zeros(rows, np.int64)) for rows in (6, 7)]
        for _ in range(3):
            with pytest.raises(OutOfDeviceMemory):
                await device.score(two)
            (scores,) = await device.score(two[:1])
            assert len(scores) == 6


class WrongShapes(TinyNetwork):
    """Gives other shapes than it should for a user of whom the golden rows do not tell."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        return logits[:1] if bool((user_rows == 2).any()) else logits

    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return torch.zeros(1 if bool((user_rows == 2).any()) else post_index.size(0), 3)


async def test_scores_and_terms_of_another_shape_are_invalid_and_fail_nobody_else():
    artifact, _ = tiny_artifact("v1")
    artifact = replace(artifact, model=save_network(WrongShapes(0, image=3, caption=2).eval()))
    async with device_named("cpu") as device:
        model = await device.load(artifact)
        table = await device.allocate(model, 16)
        posts = np.zeros(4, np.int64)
        for user_row, is_valid in ((1, True), (2, False), (3, True)):
            works = (
                ScoreRequest.of_one(model.network, table, user_row, posts),
                ExplainRequest(model, user_row, posts, posts, EmbeddingFile(None, 0, 0)),
            )
            for work in works:
                with nullcontext() if is_valid else pytest.raises(InvalidScores, match="the network gives"):
                    await device.score([work])


async def test_rows_that_no_table_has_fail_the_work_and_not_the_device():
    async with device_named("cpu") as device:
        for version in ("v1", "v2"):
            model = await device.load(tiny_artifact(version)[0])
        table = await device.allocate(model, 16)
        for user_row, row in ((1, 16), (1, -1), (99, 0), (-1, 0)):
            with pytest.raises(IndexError):
                await device.score([ScoreRequest.of_one(model.network, table, user_row, np.array([row]))])
        (scores,) = await device.score([ScoreRequest.of_one(model.network, table, 1, np.array([15]))])
        assert scores.tolist() == [0.0]

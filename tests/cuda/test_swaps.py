"""A device with its queue: memory that runs out in a batch, and versions swapped under load."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from animora_artifact import FolderStore
from animora_artifact.network import load_network, save_network
from animora_server.batching import Batcher, BatchLimits, CostModel
from animora_server.errors import OutOfDeviceMemory
from animora_server.inference.catalog_encoder import CatalogEncoder
from animora_server.inference.device import Device
from animora_server.inference.loaded_model import PostVectors
from animora_server.inference.model_manager import ModelManager
from animora_server.inference.protocols import InferenceDevice, Queue
from animora_server.inference.requests import ScoreRequest
from animora_server.observability.metrics import ScorerMetrics
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.settings import ScorerSettings
from animora_server.shared_device.device_server import serving_device
from animora_server.shared_device.remote_device import QueueObserver, RemoteDevice, SharedQueue
from animora_server.shared_device.shared_models import DeviceBatcher, SharedModels
from tests.cuda.test_scoring import MemoryHog
from tests.support.artifacts import WIDTH, tiny_artifact
from tests.support.catalogs import GrowingCatalog

LIMITS = BatchLimits(max_batch_rows=256)
VERSIONS = {name: tiny_artifact(name, seed=int(name[1:])) for name in ("v1", "v2")}
SWAPS = 6
CALLERS = 8
TIMEOUT = 60.0  # seconds of a request


def soon() -> float:
    return asyncio.get_running_loop().time() + TIMEOUT


@asynccontextmanager
async def queued(device: torch.device, faults: list[str]) -> AsyncIterator[tuple[Device, DeviceBatcher]]:
    """A device and its queue; `faults` receives each failure of the device."""
    settings = ScorerSettings(device=str(device), max_batch_rows=LIMITS.max_batch_rows)
    async with Device(settings, on_fault=lambda: faults.append("fault")) as one:
        metrics = ScorerMetrics(CollectorRegistry())
        async with Batcher(one.score, LIMITS, CostModel(), metrics, one.score_inline) as batcher:
            yield one, batcher


def manager_of(device: InferenceDevice, queue: Queue) -> ModelManager:
    encoder = CatalogEncoder(device, queue, CostModel(), LIMITS.max_batch_rows)
    return ModelManager(ServingStateHolder(math.inf), device, encoder, max_models=2)


async def test_a_batch_without_memory_is_split_and_fails_only_the_request_that_is_too_large(device):
    faults: list[str] = []
    network = load_network(save_network(MemoryHog(0, image=0, caption=0).eval()), device)
    table = PostVectors(torch.ones(8, WIDTH, device=device), 8)
    async with queued(device, faults) as (_, batcher):
        requests = [
            ScoreRequest.for_user(network, table, 1, np.zeros(rows, np.int64)) for rows in (40, 65, 50)
        ]
        results = await asyncio.gather(
            *(batcher.submit(each, len(each.rows), each.key, soon()) for each in requests),
            return_exceptions=True,
        )
    assert isinstance(results[1], OutOfDeviceMemory)
    assert [len(results[index]) for index in (0, 2)] == [40, 50]  # type: ignore[arg-type]
    assert not faults


async def swap_under_load(managers: list[ModelManager]) -> int:
    """Activates versions in turns while callers score; returns the number of checked answers."""
    catalog = GrowingCatalog()
    snapshot = catalog.grow([100, 200, 300, 400, *range(1000, 1100)])
    rows = np.arange(len(snapshot.post_ids))
    expected = {
        name: catalog.eager(network, artifact.vocabulary, 1, rows)
        for name, (artifact, network) in VERSIONS.items()
    }
    for manager in managers:
        await manager.publish(snapshot)
        await manager.activate(VERSIONS["v1"][0])
    ended, checked = asyncio.Event(), 0

    async def call(manager: ModelManager, seed: int) -> None:
        nonlocal checked
        random = np.random.default_rng(seed)
        while not ended.is_set():
            model: Any = manager.states.latest and manager.states.latest.active
            some = random.choice(rows, random.integers(1, len(rows)), replace=False)
            logits = await model.score(1, some, soon())
            np.testing.assert_allclose(logits, expected[model.version][some], atol=1e-4)
            checked += 1
            await asyncio.sleep(0)  # scoring may be done at once

    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(call(managers[number % len(managers)], number))
        for swap in range(SWAPS):
            for manager in managers:
                await manager.activate(VERSIONS["v2" if swap % 2 == 0 else "v1"][0])
        ended.set()
    return checked


async def test_two_versions_are_swapped_under_load_and_each_answer_is_by_one_of_them(device):
    faults: list[str] = []
    async with queued(device, faults) as (one, batcher):
        assert await swap_under_load([manager_of(one, batcher)]) >= CALLERS
    assert not faults


async def test_workers_of_a_shared_device_swap_versions_under_load(device, tmp_path: Path):
    faults: list[str] = []
    store = FolderStore(tmp_path / "models")
    for artifact, _ in VERSIONS.values():
        store.publish(artifact)
    socket = str(tmp_path / "device")
    async with queued(device, faults) as (one, batcher), AsyncExitStack() as stack:
        models = SharedModels(store, one, batcher, CostModel(), workers=2)
        await stack.enter_async_context(serving_device(socket, "shared", models))
        managers = []
        for _ in range(2):
            remote = await stack.enter_async_context(RemoteDevice(socket, on_loss=lambda: None))
            observer = QueueObserver(ScorerMetrics(CollectorRegistry()))
            own: DeviceBatcher = Batcher(remote.score, LIMITS, CostModel(), observer)
            await stack.enter_async_context(own)
            managers.append(manager_of(remote, SharedQueue(own, remote.score)))
        assert await swap_under_load(managers) >= CALLERS
    assert not faults


async def test_graphs_of_a_table_that_has_grown_score_its_new_posts(device):
    faults: list[str] = []
    catalog = GrowingCatalog()
    async with queued(device, faults) as (one, batcher):
        manager = manager_of(one, batcher)
        await manager.publish(catalog.grow([100, 200, 300]))
        for artifact, _ in VERSIONS.values():
            await manager.activate(artifact)
        await manager.publish(catalog.grow(range(1000, 4000)))  # more than the first table holds
        artifact, network = VERSIONS["v2"]
        rows = np.arange(3003)
        state: Any = manager.states.latest
        logits = await state.active.score(2, rows, soon())
    np.testing.assert_allclose(logits, catalog.eager(network, artifact.vocabulary, 2, rows), atol=1e-4)
    assert not faults

"""A device server and several workers in one process, over a real socket, with real batchers on a CPU."""

import asyncio
import gc
import math
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from animora_artifact import ArtifactRejected, FolderStore, VersionNotFound
from animora_server.batching import Batcher, BatchLimits, CostModel
from animora_server.errors import DeadlineUnreachable, DeviceFault
from animora_server.inference.catalog_encoder import MIN_CAPACITY, CatalogEncoder
from animora_server.inference.device import Device
from animora_server.inference.graph_capture import EagerRecorder
from animora_server.inference.model_manager import ModelManager
from animora_server.inference.placeholder_models import UnavailableModel
from animora_server.observability.metrics import ScorerMetrics
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.settings import ScorerSettings
from animora_server.shared_device.connection import DeviceConnection
from animora_server.shared_device.device_server import serving_device
from animora_server.shared_device.messages import DEVICE, VERSION
from animora_server.shared_device.remote_device import QueueObserver, RemoteDevice, SharedQueue
from animora_server.shared_device.shared_models import SharedModels
from tests.support.artifacts import tiny_artifact
from tests.support.catalogs import GrowingCatalog
from tests.support.until import HANG_TIMEOUT, until

LIMITS = BatchLimits(max_batch_rows=256)
ARTIFACTS = {version: tiny_artifact(version, seed=ord(version[1])) for version in ("v1", "v2")}


class HeldDevice(Device):
    """A device that records what it executes and that a test can pause."""

    def __init__(self, recorder):
        settings = ScorerSettings(device="cpu", max_batch_rows=LIMITS.max_batch_rows)
        super().__init__(settings, on_fault=lambda: None, recorder=recorder)
        self.free = asyncio.Event()
        self.free.set()
        self.batches: list[int] = []  # requests of each
        self.loads: list[str] = []
        self.networks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self.capacities: list[int] = []
        self.cancels_loading = False

    async def load(self, artifact):
        if self.cancels_loading:
            raise asyncio.CancelledError
        loaded = await super().load(artifact)
        self.loads.append(loaded.manifest.version)
        self.networks[loaded.manifest.version] = loaded.network
        return loaded

    async def allocate(self, model, capacity, source=None):
        self.capacities.append(capacity)
        return await super().allocate(model, capacity, source)

    async def score(self, requests):
        self.batches.append(len(requests))
        await self.free.wait()
        return await super().score(requests)

    def hold(self):
        self.free.clear()
        self.batches.clear()


class DeviceProcess:
    """The content of a device process, which a test can start and stop."""

    def __init__(self, path, store, recorder):
        self.path = path
        self._store = store
        self._recorder = recorder
        self._stack = AsyncExitStack()

    async def start(self):
        enter = self._stack.enter_async_context
        self.device = await enter(HeldDevice(self._recorder))
        cost = CostModel()
        self.metrics = CollectorRegistry()
        self.batcher = await enter(Batcher(self.device.score, LIMITS, cost, ScorerMetrics(self.metrics)))
        models = SharedModels(self._store, self.device, self.batcher, cost, workers=2)
        await enter(serving_device(self.path, "cpu, shared", models))

    async def stop(self):
        await self._stack.aclose()

    def sessions(self):
        return sum(task.get_name() == "session" for task in asyncio.all_tasks())

    def versions(self):
        gc.collect()
        return sorted(self.device.networks)


class DeviceWorker:
    """A worker's remote device with its batcher and model manager."""

    def __init__(self, path, max_models=2, **options):
        self.device = RemoteDevice(path, on_loss=self.on_device_lost, **options)
        self.registry = CollectorRegistry()
        self.lost = asyncio.Event()
        cost = CostModel()
        observer = QueueObserver(ScorerMetrics(self.registry))
        self.batcher: Any = Batcher(self.device.score, LIMITS, cost, observer)
        queue = SharedQueue(self.batcher, self.device.score)
        self.model_manager = ModelManager(
            ServingStateHolder(math.inf),
            self.device,
            CatalogEncoder(self.device, queue, cost, LIMITS.max_batch_rows),
            max_models,
        )

    def on_device_lost(self):
        self.model_manager.on_device_lost()
        self.lost.set()

    @property
    def active(self) -> Any:
        state = self.model_manager.states.latest
        assert state is not None
        return state.active

    async def activate(self, version):
        await self.model_manager.activate(ARTIFACTS[version][0])

    async def score(self, user_row, rows, timeout=60.0):  # a deadline of the request
        return await self.active.score(user_row, rows, asyncio.get_running_loop().time() + timeout)


@asynccontextmanager
async def worker(process, snapshot=None, version="v1", **options):
    """A worker with a snapshot published and a version active, if given."""
    one = DeviceWorker(process.path, **options)
    async with asyncio.timeout(HANG_TIMEOUT), one.device, one.batcher:
        if snapshot is not None:
            await one.model_manager.publish(snapshot)
            if version is not None:
                await one.activate(version)
        yield one


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "models")
    for artifact, _ in ARTIFACTS.values():
        store.publish(artifact)
    return store


@pytest.fixture(params=[None, EagerRecorder], ids=["eager", "captured"])
async def process(request, tmp_path, store):
    process = DeviceProcess(str(tmp_path / "device"), store, request.param)
    await process.start()
    yield process
    await process.stop()


def posts(*ids):
    catalog = GrowingCatalog()
    return catalog, catalog.grow(ids)


async def assert_scores(one, catalog, version, user_row=1):
    artifact, network = ARTIFACTS[version]
    rows = np.arange(len(catalog.post_ids))
    logits = await one.score(user_row, rows)
    assert one.active.version == version
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, user_row, rows)).max() < 1e-5


async def test_workers_with_different_catalog_rows_get_the_scores_of_their_posts(process):
    first, snapshot = posts(100, 200, 300, *range(1000, 1050))
    second, other_snapshot = posts(400, 300, 200, 100, *range(2000, 2020))
    async with worker(process, snapshot) as one, worker(process, other_snapshot) as other:
        for user_row in (1, 2, 3):
            await assert_scores(one, first, "v1", user_row)
            await assert_scores(other, second, "v1", user_row)
        assert str(one.device) == "cpu, shared"


async def test_waiting_requests_of_several_workers_form_one_batch(process):
    _, snapshot = posts(100, 200, 300)
    async with (
        worker(process, snapshot) as one,
        worker(process, snapshot) as other,
        worker(process, snapshot) as third,
    ):
        process.device.hold()
        running = asyncio.create_task(one.score(1, np.arange(3)))
        await until(lambda: process.device.batches)
        waiting = [asyncio.create_task(who.score(2, np.arange(3))) for who in (other, third)]
        await until(lambda: process.batcher.queued_rows == 6)
        process.device.free.set()
        scores = await asyncio.gather(running, *waiting)
        assert process.device.batches == [1, 2]
        assert np.abs(scores[1] - scores[2]).max() < 1e-6


async def test_scores_of_all_workers_stay_correct_when_the_table_grows(process):
    first, snapshot = posts(100, 200, 300)
    second, other_snapshot = posts(300, 400)
    async with worker(process, snapshot) as one, worker(process, other_snapshot) as other:
        before = one.active
        await one.model_manager.publish(first.grow(range(5000, 5000 + 3 * MIN_CAPACITY)))
        await assert_scores(one, first, "v1")
        await assert_scores(other, second, "v1")
        deadline = asyncio.get_running_loop().time() + 60
        old = await before.score(1, np.arange(3), deadline)
        assert np.array_equal(old, (await one.score(1, np.arange(3))))


async def test_each_worker_scores_with_its_active_version_and_each_version_is_loaded_once(process):
    catalog, snapshot = posts(100, 200)
    async with worker(process, snapshot, "v1") as one, worker(process, snapshot, "v2") as other:
        await assert_scores(one, catalog, "v1")
        await assert_scores(other, catalog, "v2")
        for who, version in ((other, "v1"), (one, "v2")):
            await who.activate(version)
            await assert_scores(who, catalog, version)
        assert process.device.loads == ["v1", "v2"]
        assert (
            process.device.capacities == [2 * MIN_CAPACITY] * 2
        )  # a table of each version, with both regions


async def test_the_regions_and_models_of_a_disconnected_worker_are_freed(process):
    _, snapshot = posts(100, 200)
    async with worker(process, snapshot):
        for _ in range(3):
            async with worker(process, snapshot):
                pass
            await until(lambda: process.sessions() == 1)
        assert process.device.capacities == [2 * MIN_CAPACITY]  # with room for two regions, never for more
    await until(lambda: process.versions() == [])


async def test_a_version_that_no_worker_holds_is_freed(process):
    _, snapshot = posts(100, 200)
    async with worker(process, snapshot, max_models=1) as one:
        assert process.versions() == ["v1"]
        await one.activate("v2")
        await until(lambda: process.versions() == ["v2"])


async def test_explain_terms_add_up_to_the_score(process):
    _, snapshot = posts(100, 200, 300)
    async with worker(process, snapshot) as one:
        deadline = asyncio.get_running_loop().time() + 60
        terms = await one.active.explain(1, np.arange(3), deadline)
        assert np.allclose(terms.sum(axis=1), await one.score(1, np.arange(3)), atol=1e-5)
        terms[0] = 0  # the array is writable


async def test_embeddings_too_large_for_one_message_are_split_and_unused_ones_are_not_sent(process, store):
    by_id, network = tiny_artifact("v4", seed=4, image=0, caption=0)
    store.publish(by_id)
    catalog, snapshot = posts(100, 200, *range(1000, 1100))
    async with worker(process, snapshot, max_embedding_bytes=64) as one:
        await assert_scores(one, catalog, "v1")
        await one.model_manager.activate(by_id)
        logits = await one.score(1, np.arange(len(catalog.post_ids)))
        known = torch.tensor([1, 2, *[0] * 100])
        expected = (network.users[1] * network.posts[known]).sum(dim=1).detach().numpy()
        assert np.abs(logits - expected).max() < 1e-5


async def test_requests_without_a_deadline_are_scored(process):
    catalog, snapshot = posts(100, 200, 300)
    artifact, network = ARTIFACTS["v1"]
    async with worker(process, snapshot) as one:
        logits = await one.active.score(1, np.arange(3), None)
        assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, np.arange(3))).max() < 1e-5


async def test_a_row_outside_the_workers_region_fails_only_its_request(process):
    _, snapshot = posts(100, 200)
    async with worker(process, snapshot) as one, worker(process, snapshot):
        good = np.arange(2)
        tasks = [
            asyncio.create_task(one.score(1, rows))
            for rows in (good, np.array([MIN_CAPACITY]), good, good - 1)
        ]
        await asyncio.wait(tasks)
        assert [task.exception() is None for task in tasks] == [True, False, True, False]


async def test_a_request_that_has_expired_is_not_executed_by_the_device_process(process):
    _, snapshot = posts(100, 200)
    async with worker(process, snapshot) as one, worker(process, snapshot) as other:
        process.device.hold()
        running = asyncio.create_task(one.score(1, np.arange(2)))
        await until(lambda: process.device.batches)
        with pytest.raises(DeadlineUnreachable):
            await other.score(1, np.arange(2), timeout=0.2)
        process.device.free.set()
        await running
        await until(lambda: not process.batcher.queued_rows and process.batcher.running_since is None)
        assert len(process.device.batches) == 1
        await other.score(1, np.arange(2))


async def test_a_rejected_version_is_rejected_with_the_same_reason_in_the_worker(process, store, tmp_path):
    model = tmp_path / "models" / "v2" / "model.ts"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    _, snapshot = posts(100)
    async with worker(process, snapshot, version=None) as one:
        with pytest.raises(ArtifactRejected) as refused:
            await one.activate("v2")
        assert refused.value.reason == "digest"
        with pytest.raises(VersionNotFound):
            await one.model_manager.activate(tiny_artifact("v3")[0])
        await one.activate("v1")


async def test_a_call_that_is_cancelled_in_the_device_process_is_a_device_fault(process):
    _, snapshot = posts(100)
    async with worker(process, snapshot, version=None) as one:
        process.device.cancels_loading = True
        with pytest.raises(DeviceFault, match="cancelled"):
            await one.activate("v1")
        process.device.cancels_loading = False
        await one.activate("v1")


async def test_scoring_fails_after_a_loss_of_the_process_until_a_version_is_activated_again(process, store):
    catalog, snapshot = posts(100, 200)
    async with worker(process, snapshot) as one:
        process.device.hold()
        before = one.active
        waiting = asyncio.create_task(one.score(1, np.arange(2)))
        await until(lambda: process.device.batches)
        await process.stop()
        with pytest.raises(DeviceFault):
            await waiting
        await one.lost.wait()
        assert not one.device.is_connected
        assert one.model_manager.active_version is None
        await one.model_manager.publish(catalog.grow([300]))
        assert isinstance(one.active, UnavailableModel)
        assert one.active.user_row(7) == 1
        assert one.active.has_features(np.arange(3)).tolist() == [True, True, True]
        deadline = asyncio.get_running_loop().time() + 60
        for model in (before, one.active):
            with pytest.raises(DeviceFault):
                await model.score(1, np.arange(2), deadline)
            with pytest.raises(DeviceFault):
                await model.explain(1, np.arange(2), deadline)

        restarted = DeviceProcess(process.path, store, None)
        await restarted.start()
        await until(lambda: one.device.is_connected)
        with pytest.raises(DeviceFault):
            await one.score(1, np.arange(2))
        await one.activate("v1")
        await assert_scores(one, catalog, "v1")
        await restarted.stop()


async def test_a_worker_that_disconnects_fails_its_waiting_requests_and_connects_again(process):
    _, snapshot = posts(100, 200)
    async with worker(process, snapshot) as one:
        process.device.hold()
        waiting = asyncio.create_task(one.score(1, np.arange(2)))
        await until(lambda: process.device.batches)
        one.device.disconnect("the device hangs")
        with pytest.raises(DeviceFault, match="hangs"):
            await waiting
        process.device.free.set()
        await one.lost.wait()
        await one.activate("v1")
        await one.score(1, np.arange(2))


async def test_only_a_connection_that_sends_an_unreadable_message_is_closed(process):
    catalog, snapshot = posts(100, 200)
    async with worker(process, snapshot) as one:
        reader, writer = await asyncio.open_unix_connection(process.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await assert_scores(one, catalog, "v1")


async def test_a_call_that_its_target_does_not_understand_fails_alone(process):
    rows, image, caption = np.arange(2), np.zeros((2, 3), np.float16), np.zeros((2, 2), np.float16)
    async with asyncio.timeout(HANG_TIMEOUT):
        connection = await DeviceConnection.open(process.path)
        with pytest.raises(DeviceFault, match="version"):
            await connection.call("hello", DEVICE, VERSION + 1)
        model, _ = await connection.call("load", DEVICE, "v1")
        (table,) = await connection.call("allocate", model, 10)
        for name, target, *arguments in (
            ("score", DEVICE, 1.0, rows, rows, rows),
            ("score", model, 1.0, rows, rows, rows),
            ("score", table, 1.0, rows, rows + 1, rows),  # sizes of three posts
            ("score", table, 1.0, rows[:1], rows, rows),  # sizes of two users
            ("encode", table, 0, rows, image[:1], caption),
            ("encode", table, 9, rows, image, caption),
            ("explain", model, 1, 1.0, rows, image, caption.ravel()[:3]),
            ("allocate", 99, 10),
        ):
            with pytest.raises(RuntimeError):
                await connection.call(name, target, *arguments)
        (seconds,) = await connection.call("encode", table, 8, rows, image, caption)
        assert seconds > 0
        await connection.aclose()


async def test_batches_are_counted_in_the_device_process(process):
    _, snapshot = posts(100, 200)
    async with worker(process, snapshot) as one:
        before = process.metrics.get_sample_value("animora_batch_rows_count")  # trials
        await one.score(1, np.arange(2))
        assert process.metrics.get_sample_value("animora_batch_rows_count") == before + 1
        assert one.registry.get_sample_value("animora_batch_rows_count") == 0
        assert one.registry.get_sample_value("animora_queue_seconds_count") == 1

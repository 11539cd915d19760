"""A device server and several workers in one process, over a real socket, with real batchers on a CPU."""

import asyncio
import gc
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from animora_artifact import ArtifactRejected, FolderStore, VersionNotFound
from animora_server.batching import Batcher, BatchLimits, CostModel
from animora_server.errors import DeadlineUnreachable, DeviceFault
from animora_server.inference import CatalogEncoder, ModelManager
from animora_server.inference.catalog_encoder import MIN_CAPACITY
from animora_server.inference.device import Device
from animora_server.inference.graph_capture import EagerRecorder
from animora_server.inference.placeholder_models import UnavailableModel
from animora_server.observability.metrics import ScorerMetrics
from animora_server.settings import ScorerSettings
from animora_server.shared_device import remote_device
from animora_server.shared_device.device_server import DeviceServer
from animora_server.shared_device.remote_device import QueueObserver, RemoteDevice, SharedQueue
from animora_server.shared_device.shared_models import SharedModels
from tests.support.artifacts import tiny_artifact
from tests.support.catalogs import GrowingCatalog
from tests.support.until import HANG_TIMEOUT

LIMITS = BatchLimits(max_batch_rows=256)
ARTIFACTS = {version: tiny_artifact(version, seed=ord(version[1])) for version in ("v1", "v2")}


class HeldDevice(Device):
    """A device that records its batches and that a test can pause."""

    def __init__(self, recorder):
        settings = ScorerSettings(device="cpu", max_batch_rows=LIMITS.max_batch_rows)
        super().__init__(settings, on_fault=lambda: None, recorder=recorder)
        self.free = asyncio.Event()
        self.free.set()
        self.batches: list[Any] = []
        self.cancels_loading = False

    async def load(self, artifact):
        if self.cancels_loading:
            raise asyncio.CancelledError
        return await super().load(artifact)

    async def score(self, requests):
        self.batches.append(requests)
        await self.free.wait()
        return await super().score(requests)


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
        self.models = SharedModels(self._store, self.device, self.batcher, workers=2)
        await enter(DeviceServer(self.path, "cpu, shared", self.models, self.batcher, cost))

    async def stop(self):
        await self._stack.aclose()

    def table(self, version):
        return self.models._models[version]._table

    def regions(self, version):
        return self.models._models[version]._regions


class DeviceWorker:
    """A worker's remote device with its batcher and model manager."""

    def __init__(self, path):
        self.device = RemoteDevice(path, on_loss=self.on_device_lost)
        self.registry = CollectorRegistry()
        self.lost = asyncio.Event()
        cost = CostModel()
        observer = QueueObserver(ScorerMetrics(self.registry))
        self.batcher: Any = Batcher(self.device.score, LIMITS, cost, observer)
        queue = SharedQueue(self.batcher, self.device.score)
        self.model_manager = ModelManager(
            self.device, CatalogEncoder(self.device, queue, cost, LIMITS.max_batch_rows), max_models=2
        )

    def on_device_lost(self):
        self.model_manager.on_device_lost()
        self.lost.set()

    @property
    def active(self) -> Any:
        state = self.model_manager.current()
        assert state is not None
        return state.active

    async def score(self, user_row, rows, timeout=60.0):  # a deadline of the request
        return await self.active.score(user_row, rows, asyncio.get_running_loop().time() + timeout)


@asynccontextmanager
async def worker(process):
    one = DeviceWorker(process.path)
    async with asyncio.timeout(HANG_TIMEOUT), one.device, one.batcher:
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


async def until(condition):
    async with asyncio.timeout(HANG_TIMEOUT):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.005)


async def assert_scores(one, catalog, version, user_row=1):
    artifact, network = ARTIFACTS[version]
    rows = np.arange(len(catalog.post_ids))
    logits = await one.score(user_row, rows)
    assert one.active.version == version
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, user_row, rows)).max() < 1e-5


async def test_workers_with_different_catalog_rows_get_the_scores_of_their_posts(process):
    first, snapshot = posts(100, 200, 300, *range(1000, 1050))
    second, other_snapshot = posts(400, 300, 200, 100, *range(2000, 2020))
    async with worker(process) as one, worker(process) as other:
        for who, what in ((one, snapshot), (other, other_snapshot)):
            await who.model_manager.publish(what)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        for user_row in (1, 2, 3):
            await assert_scores(one, first, "v1", user_row)
            await assert_scores(other, second, "v1", user_row)
        assert str(one.device) == "cpu, shared"


async def test_waiting_requests_of_several_workers_form_one_batch(process):
    _, snapshot = posts(100, 200, 300)
    async with worker(process) as one, worker(process) as other, worker(process) as third:
        for who in (one, other, third):
            await who.model_manager.publish(snapshot)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        process.device.free.clear()
        process.device.batches.clear()
        running = asyncio.create_task(one.score(1, np.arange(3)))
        await until(lambda: process.device.batches)
        waiting = [asyncio.create_task(who.score(2, np.arange(3))) for who in (other, third)]
        await until(lambda: process.batcher.queued_rows == 6)
        process.device.free.set()
        scores = await asyncio.gather(running, *waiting)
        assert [len(requests) for requests in process.device.batches] == [1, 2]
        assert np.abs(scores[1] - scores[2]).max() < 1e-6


async def test_scores_of_all_workers_stay_correct_when_the_table_grows(process):
    first, snapshot = posts(100, 200, 300)
    second, other_snapshot = posts(300, 400)
    async with worker(process) as one, worker(process) as other:
        for who, what in ((one, snapshot), (other, other_snapshot)):
            await who.model_manager.publish(what)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        before = one.active
        await one.model_manager.publish(first.grow(range(5000, 5000 + 3 * MIN_CAPACITY)))
        await assert_scores(one, first, "v1")
        await assert_scores(other, second, "v1")
        deadline = asyncio.get_running_loop().time() + 60
        old = await before.score(1, np.arange(3), deadline)
        assert np.array_equal(old, (await one.score(1, np.arange(3))))


async def test_each_worker_scores_with_its_active_version_and_each_version_is_loaded_once(process):
    catalog, snapshot = posts(100, 200)
    async with worker(process) as one, worker(process) as other:
        for who, version in ((one, "v1"), (other, "v2"), (other, "v1"), (one, "v2")):
            await who.model_manager.publish(snapshot)
            await who.model_manager.activate(ARTIFACTS[version][0])
            await assert_scores(who, catalog, version)
        assert len(process.models._models) == 2
        assert [len(process.regions(version)) for version in ("v1", "v2")] == [2, 2]


async def test_the_regions_and_models_of_a_disconnected_worker_are_freed(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        for _ in range(3):
            async with worker(process) as other:
                await other.model_manager.publish(snapshot)
                await other.model_manager.activate(ARTIFACTS["v1"][0])
                await until(lambda: len(process.regions("v1")) == 2)
            await until(lambda: len(process.regions("v1")) == 1)
        assert len(process.table("v1").vectors) == 2 * MIN_CAPACITY
    gc.collect()
    await until(lambda: not process.models._models)


async def test_a_version_that_no_worker_holds_is_freed(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one:
        one.model_manager._max_models = 1
        await one.model_manager.publish(snapshot)
        for version in ("v1", "v2"):
            await one.model_manager.activate(ARTIFACTS[version][0])
        gc.collect()
        await until(lambda: list(process.models._models) == ["v2"])


async def test_explain_terms_add_up_to_the_score(process):
    _, snapshot = posts(100, 200, 300)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        deadline = asyncio.get_running_loop().time() + 60
        terms = await one.active.explain(1, np.arange(3), deadline)
        assert np.allclose(terms.sum(axis=1), await one.score(1, np.arange(3)), atol=1e-5)
        terms[0] = 0  # the array is writable


async def test_embeddings_too_large_for_one_frame_are_split_and_unused_ones_are_not_sent(
    process, store, monkeypatch
):
    monkeypatch.setattr(remote_device, "MAX_PART_BYTES", 64)
    by_id, by_all = tiny_artifact("v4", seed=4, image=0, caption=0), ARTIFACTS["v1"]
    store.publish(by_id[0])
    catalog, snapshot = posts(100, 200, *range(1000, 1100))
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        rows = np.arange(len(catalog.post_ids))
        await one.model_manager.activate(by_all[0])
        await assert_scores(one, catalog, "v1")
        await one.model_manager.activate(by_id[0])
        network = by_id[1]
        logits = await one.score(1, rows)
        known = torch.tensor([1, 2, *[0] * 100])
        expected = (network.users[1] * network.posts[known]).sum(dim=1).detach().numpy()
        assert np.abs(logits - expected).max() < 1e-5


async def test_requests_without_a_deadline_are_scored(process):
    catalog, snapshot = posts(100, 200, 300)
    artifact, network = ARTIFACTS["v1"]
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(artifact)
        logits = await one.active.score(1, np.arange(3), None)
        assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, np.arange(3))).max() < 1e-5


async def test_a_row_outside_the_workers_region_fails_only_its_request(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one, worker(process) as other:
        for who in (one, other):
            await who.model_manager.publish(snapshot)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        good = np.arange(2)
        tasks = [
            asyncio.create_task(one.score(1, rows))
            for rows in (good, np.array([MIN_CAPACITY]), good, good - 1)
        ]
        await asyncio.wait(tasks)
        assert [task.exception() is None for task in tasks] == [True, False, True, False]


async def test_a_request_that_has_expired_is_not_executed_by_the_device_process(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one, worker(process) as other:
        for who in (one, other):
            await who.model_manager.publish(snapshot)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        process.device.free.clear()
        process.device.batches.clear()
        running = asyncio.create_task(one.score(1, np.arange(2)))
        await until(lambda: process.device.batches)
        with pytest.raises(DeadlineUnreachable):
            await other.score(1, np.arange(2), timeout=0.2)
        process.device.free.set()
        await running
        await until_idle(process)
        assert len(process.device.batches) == 1
        await other.score(1, np.arange(2))


async def until_idle(process):
    await until(lambda: not process.batcher.queued_rows and process.batcher.running_since is None)


async def test_a_rejected_version_is_rejected_with_the_same_reason_in_the_worker(process, store, tmp_path):
    model = tmp_path / "models" / "v2" / "model.ts"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    _, snapshot = posts(100)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        with pytest.raises(ArtifactRejected) as refused:
            await one.model_manager.activate(ARTIFACTS["v2"][0])
        assert refused.value.reason == "digest"
        with pytest.raises(VersionNotFound):
            await one.model_manager.activate(tiny_artifact("v3")[0])
        await one.model_manager.activate(ARTIFACTS["v1"][0])


async def test_a_call_that_is_cancelled_in_the_device_process_is_a_device_fault(process):
    _, snapshot = posts(100)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        process.device.cancels_loading = True
        with pytest.raises(DeviceFault, match="cancelled"):
            await one.model_manager.activate(ARTIFACTS["v1"][0])
        process.device.cancels_loading = False
        await one.model_manager.activate(ARTIFACTS["v1"][0])


async def test_scoring_fails_after_a_loss_of_the_process_until_a_version_is_activated_again(
    process, tmp_path, store
):
    catalog, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        process.device.free.clear()
        process.device.batches.clear()
        before = one.active
        waiting = asyncio.create_task(one.score(1, np.arange(2)))
        await until(lambda: process.device.batches)
        await process.stop()
        with pytest.raises(DeviceFault):
            await waiting
        await one.lost.wait()
        assert one.device.away
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
        await until(lambda: not one.device.away)
        with pytest.raises(DeviceFault):
            await one.score(1, np.arange(2))
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        await assert_scores(one, catalog, "v1")
        await restarted.stop()


async def test_giving_up_fails_waiting_requests_and_reconnects(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        process.device.free.clear()
        process.device.batches.clear()
        waiting = asyncio.create_task(one.score(1, np.arange(2)))
        await until(lambda: process.device.batches)
        one.device.give_up("the device hangs")
        with pytest.raises(DeviceFault, match="hangs"):
            await waiting
        process.device.free.set()
        await one.lost.wait()
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        await one.score(1, np.arange(2))


async def test_only_a_connection_that_sends_an_unreadable_frame_is_closed(process):
    catalog, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        reader, writer = await asyncio.open_unix_connection(process.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await assert_scores(one, catalog, "v1")


async def test_batches_are_counted_in_the_device_process(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        before = process.metrics.get_sample_value("animora_batch_rows_count")  # trials
        await one.score(1, np.arange(2))
        assert process.metrics.get_sample_value("animora_batch_rows_count") == before + 1
        assert one.registry.get_sample_value("animora_batch_rows_count") == 0
        assert one.registry.get_sample_value("animora_queue_seconds_count") == 1

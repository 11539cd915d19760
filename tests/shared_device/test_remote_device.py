"""A shared device, and workers of it in one process: the real socket, the real batcher, a CPU."""

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
from animora_server.inference.unavailable_model import UnavailableModel
from animora_server.observability.metrics import ScorerMetrics
from animora_server.settings import ScorerSettings
from animora_server.shared_device import remote_device
from animora_server.shared_device.device_server import DeviceServer
from animora_server.shared_device.remote_device import QueueObserver, RemoteDevice, SharedQueue
from animora_server.shared_device.shared_models import SharedModels
from tests.inference.artifacts import tiny_artifact
from tests.inference.test_model_manager import Catalog
from tests.limits import HANG_TIMEOUT

LIMITS = BatchLimits(max_batch_rows=256)
ARTIFACTS = {version: tiny_artifact(version, seed=ord(version[1])) for version in ("v1", "v2")}


class HeldDevice(Device):
    """A device whose batches can be held up, and are kept."""

    def __init__(self, recorder):
        settings = ScorerSettings(device="cpu", max_batch_rows=LIMITS.max_batch_rows)
        super().__init__(settings, on_fault=lambda: None, recorder=recorder)
        self.free = asyncio.Event()
        self.free.set()
        self.batches: list[Any] = []
        self.cancels = False  # what it is asked for

    async def load(self, artifact):
        if self.cancels:
            raise asyncio.CancelledError
        return await super().load(artifact)

    async def score(self, works):
        self.batches.append(works)
        await self.free.wait()
        return await super().score(works)


class Process:
    """What is in the device process: started and stopped as it would be."""

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


class Worker:
    """What a worker has in place of a device of its own."""

    def __init__(self, path):
        self.device = RemoteDevice(path, on_loss=self.lose)
        self.registry = CollectorRegistry()
        self.lost = asyncio.Event()
        cost = CostModel()
        observer = QueueObserver(ScorerMetrics(self.registry))
        self.batcher: Any = Batcher(self.device.score, LIMITS, cost, observer)
        queue = SharedQueue(self.batcher, self.device.score)
        self.model_manager = ModelManager(
            self.device, CatalogEncoder(self.device, queue, cost, LIMITS.max_batch_rows), max_models=2
        )

    def lose(self):
        self.model_manager.lose()
        self.lost.set()

    @property
    def active(self) -> Any:
        pin = self.model_manager.current()
        assert pin is not None
        return pin.active

    async def score(self, user_row, rows, patience=60.0):
        return await self.active.score(user_row, rows, asyncio.get_running_loop().time() + patience)


@asynccontextmanager
async def worker(process):
    one = Worker(process.path)
    async with asyncio.timeout(HANG_TIMEOUT), one.device, one.batcher:
        yield one


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "models")
    for artifact, _ in ARTIFACTS.values():
        store.publish(artifact)
    return store


@pytest.fixture(params=[None, EagerRecorder], ids=["as they come", "recorded"])
async def process(request, tmp_path, store):
    process = Process(str(tmp_path / "device"), store, request.param)
    await process.start()
    yield process
    await process.stop()


def posts(*ids):
    catalog = Catalog()
    return catalog, catalog.grow(ids)


async def until(holds):
    async with asyncio.timeout(HANG_TIMEOUT):
        while not holds():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)


async def assert_right(one, catalog, version, user_row=1):
    artifact, network = ARTIFACTS[version]
    rows = np.arange(len(catalog.post_ids))
    logits = await one.score(user_row, rows)
    assert one.active.version == version
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, user_row, rows)).max() < 1e-5


async def test_workers_with_other_rows_get_scores_of_their_own_posts(process):
    first, snapshot = posts(100, 200, 300, *range(1000, 1050))
    second, other_snapshot = posts(400, 300, 200, 100, *range(2000, 2020))
    async with worker(process) as one, worker(process) as other:
        for who, what in ((one, snapshot), (other, other_snapshot)):
            await who.model_manager.publish(what)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        for user_row in (1, 2, 3):
            await assert_right(one, first, "v1", user_row)
            await assert_right(other, second, "v1", user_row)
        assert str(one.device) == "cpu, shared"


async def test_what_waits_of_several_workers_is_one_batch(process):
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
        assert [len(works) for works in process.device.batches] == [1, 2]
        assert np.abs(scores[1] - scores[2]).max() < 1e-6


async def test_a_table_that_grows_leaves_all_workers_right(process):
    first, snapshot = posts(100, 200, 300)
    second, other_snapshot = posts(300, 400)
    async with worker(process) as one, worker(process) as other:
        for who, what in ((one, snapshot), (other, other_snapshot)):
            await who.model_manager.publish(what)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        before = one.active
        await one.model_manager.publish(first.grow(range(5000, 5000 + 3 * MIN_CAPACITY)))
        await assert_right(one, first, "v1")
        await assert_right(other, second, "v1")
        deadline = asyncio.get_running_loop().time() + 60
        old = await before.score(1, np.arange(3), deadline)
        assert np.array_equal(old, (await one.score(1, np.arange(3))))


async def test_each_worker_has_the_version_it_follows_and_both_are_loaded_once(process):
    catalog, snapshot = posts(100, 200)
    async with worker(process) as one, worker(process) as other:
        for who, version in ((one, "v1"), (other, "v2"), (other, "v1"), (one, "v2")):
            await who.model_manager.publish(snapshot)
            await who.model_manager.activate(ARTIFACTS[version][0])
            await assert_right(who, catalog, version)
        assert len(process.models._models) == 2
        assert [len(process.regions(version)) for version in ("v1", "v2")] == [2, 2]


async def test_a_worker_that_goes_frees_what_it_held(process):
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


async def test_a_version_that_is_no_longer_held_is_freed(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one:
        one.model_manager._max_models = 1
        await one.model_manager.publish(snapshot)
        for version in ("v1", "v2"):
            await one.model_manager.activate(ARTIFACTS[version][0])
        gc.collect()
        await until(lambda: list(process.models._models) == ["v2"])


async def test_terms_are_those_of_the_score(process):
    _, snapshot = posts(100, 200, 300)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        deadline = asyncio.get_running_loop().time() + 60
        terms = await one.active.explain(1, np.arange(3), deadline)
        assert np.allclose(terms.sum(axis=1), await one.score(1, np.arange(3)), atol=1e-5)
        terms[0] = 0  # whoever asked may change them


async def test_embeddings_too_large_for_one_message_go_in_several_and_unused_ones_not_at_all(
    process, store, monkeypatch
):
    monkeypatch.setattr(remote_device, "LARGEST_PART", 64)
    by_id, by_all = tiny_artifact("v4", seed=4, image=0, caption=0), ARTIFACTS["v1"]
    store.publish(by_id[0])
    catalog, snapshot = posts(100, 200, *range(1000, 1100))
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        rows = np.arange(len(catalog.post_ids))
        await one.model_manager.activate(by_all[0])
        await assert_right(one, catalog, "v1")
        await one.model_manager.activate(by_id[0])
        network = by_id[1]
        logits = await one.score(1, rows)
        known = torch.tensor([1, 2, *[0] * 100])
        expected = (network.users[1] * network.posts[known]).sum(dim=1).detach().numpy()
        assert np.abs(logits - expected).max() < 1e-5


async def test_scores_without_a_deadline_come_too(process):
    catalog, snapshot = posts(100, 200, 300)
    artifact, network = ARTIFACTS["v1"]
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(artifact)
        logits = await one.active.score(1, np.arange(3), None)
        assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, np.arange(3))).max() < 1e-5


async def test_a_row_of_another_worker_cannot_be_asked_for_and_fails_its_own_request_only(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one, worker(process) as other:
        for who in (one, other):
            await who.model_manager.publish(snapshot)
            await who.model_manager.activate(ARTIFACTS["v1"][0])
        good = np.arange(2)
        asked = [
            asyncio.create_task(one.score(1, rows))
            for rows in (good, np.array([MIN_CAPACITY]), good, good - 1)
        ]
        await asyncio.wait(asked)
        assert [task.exception() is None for task in asked] == [True, False, True, False]


async def test_what_comes_too_late_for_the_device_is_not_executed_there(process):
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
            await other.score(1, np.arange(2), patience=0.2)
        process.device.free.set()
        await running
        await assert_nothing_waits(process)
        assert len(process.device.batches) == 1
        await other.score(1, np.arange(2))


async def assert_nothing_waits(process):
    await until(lambda: not process.batcher.queued_rows and process.batcher.running_since is None)


async def test_a_version_that_must_not_serve_is_refused_for_the_same_reason(process, store, tmp_path):
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


async def test_work_that_is_cancelled_in_the_device_process_fails_whoever_asked_for_it(process):
    _, snapshot = posts(100)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        process.device.cancels = True
        with pytest.raises(DeviceFault, match="cancelled"):
            await one.model_manager.activate(ARTIFACTS["v1"][0])
        process.device.cancels = False
        await one.model_manager.activate(ARTIFACTS["v1"][0])


async def test_when_the_process_has_gone_asking_fails_until_it_is_back_and_a_version_is_activated(
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

        again = Process(process.path, store, None)
        await again.start()
        await until(lambda: not one.device.away)
        with pytest.raises(DeviceFault):
            await one.score(1, np.arange(2))
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        await assert_right(one, catalog, "v1")
        await again.stop()


async def test_nobody_waits_for_a_process_that_was_given_up(process):
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


async def test_one_who_sends_nonsense_is_cut_off_and_nobody_else(process):
    catalog, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        reader, writer = await asyncio.open_unix_connection(process.path)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await assert_right(one, catalog, "v1")


async def test_batches_are_counted_where_they_run(process):
    _, snapshot = posts(100, 200)
    async with worker(process) as one:
        await one.model_manager.publish(snapshot)
        await one.model_manager.activate(ARTIFACTS["v1"][0])
        before = process.metrics.get_sample_value("animora_batch_rows_count")  # trials
        await one.score(1, np.arange(2))
        assert process.metrics.get_sample_value("animora_batch_rows_count") == before + 1
        assert one.registry.get_sample_value("animora_batch_rows_count") == 0
        assert one.registry.get_sample_value("animora_queue_seconds_count") == 1

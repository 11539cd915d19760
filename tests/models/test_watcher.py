"""The watcher: which version it loads, and which it lets alone."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from animora_artifact import Artifact, ArtifactRejected, FolderStore
from animora_artifact.errors import RejectionReason
from animora_server.errors import DeviceFault
from animora_server.metrics import ModelMetrics
from animora_server.models import ModelWatcher
from tests.scorer.artifacts import tiny_artifact


class FakeModels:
    """Takes every version but those that it was told to refuse."""

    def __init__(self):
        self.active_version: str | None = None
        self.refusals: dict[str, Exception] = {}
        self.tried: list[str] = []
        self.changed = asyncio.Condition()

    async def activate(self, artifact: Artifact) -> None:
        version = artifact.manifest.version
        async with self.changed:
            self.tried.append(version)
            self.changed.notify_all()
        if version in self.refusals:
            raise self.refusals[version]
        self.active_version = version

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)


@pytest.fixture
def store(tmp_path) -> FolderStore:
    store = FolderStore(tmp_path)
    for version in ("v1", "v2"):
        store.publish(tiny_artifact(version)[0])
    return store


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
async def _watching(store, models):
    metrics = ModelMetrics(CollectorRegistry())
    store.activate("v1")
    async with ModelWatcher(store, models, 0.01, metrics):
        await models.until(lambda: models.tried == ["v1"])
        yield


@pytest.mark.usefixtures("_watching")
async def test_an_unfit_version_is_tried_again_only_after_the_pointer_moved(store, models):
    models.refusals["v2"] = ArtifactRejected(RejectionReason.DIGEST, "flipped")
    store.activate("v2")
    await models.until(lambda: models.tried == ["v1", "v2"])
    store.activate("v1")
    models.active_version = None  # so that the look at v1 can be seen
    await models.until(lambda: models.tried == ["v1", "v2", "v1"])
    models.refusals.clear()
    store.activate("v2")
    await models.until(lambda: models.tried == ["v1", "v2", "v1", "v2"])


@pytest.mark.usefixtures("_watching")
async def test_a_version_that_the_device_could_not_take_is_tried_again(store, models):
    models.refusals["v2"] = DeviceFault("out of memory, for now")
    store.activate("v2")
    await models.until(lambda: models.tried.count("v2") >= 2)
    models.refusals.clear()
    tried = models.tried.count("v2")
    await models.until(lambda: models.tried.count("v2") > tried or models.active_version == "v2")


@pytest.mark.usefixtures("_watching")
async def test_the_version_that_answers_is_not_loaded_again(store, models):
    store.activate("v2")
    await models.until(lambda: models.tried[-1] == "v2")
    store.activate("v1")
    await models.until(lambda: models.tried[-1] == "v1")
    assert models.tried == ["v1", "v2", "v1"]

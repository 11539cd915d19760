"""The keeper: which versions it loads beside the active one, and when it tries a failed version again."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from animora_artifact import Artifact, ArtifactRejected, FolderStore
from animora_artifact.errors import RejectionReason
from animora_server.errors import DeviceFault
from animora_server.models import VersionKeeper, VersionLoader
from animora_server.observability.metrics import ModelMetrics
from tests.support.artifacts import tiny_artifact
from tests.support.until import until


class FakeModels:
    """Keeps every version except those in `refusals`."""

    def __init__(self):
        self.kept: set[str] = set()
        self.refusals: dict[str, Exception] = {}
        self.tried: list[str] = []

    def is_kept(self, version: str) -> bool:
        return version in self.kept

    async def keep(self, artifact: Artifact) -> None:
        version = artifact.manifest.version
        self.tried.append(version)
        if version in self.refusals:
            raise self.refusals[version]
        self.kept.add(version)


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


class Keeping:
    """What a keeper has counted and reported."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.refused: Collection[str] = ()

    def refuse(self, versions: Collection[str]) -> None:
        self.refused = versions

    def rejections(self, reason: str) -> float | None:
        return self.registry.get_sample_value("animora_model_rejections_total", {"reason": reason})


@asynccontextmanager
async def keeping(store: FolderStore, models: FakeModels, *versions: str) -> AsyncIterator[Keeping]:
    it = Keeping()
    loader = VersionLoader(store, 0.01, ModelMetrics(it.registry))
    async with VersionKeeper(versions, loader, models, 0.01, it.refuse):
        yield it


async def test_every_version_is_loaded(store, models):
    async with keeping(store, models, "v1", "v2"):
        await until(lambda: models.kept == {"v1", "v2"})
    assert sorted(models.tried) == ["v1", "v2"]


async def test_a_version_that_the_device_has_lost_is_loaded_again(store, models):
    async with keeping(store, models, "v1"):
        await until(lambda: models.kept == {"v1"})
        models.kept.clear()
        await until(lambda: models.kept == {"v1"})


async def test_a_version_that_must_not_serve_is_reported_and_not_tried_again(store, models):
    models.refusals["v1"] = ArtifactRejected(RejectionReason.GOLDEN, "differs")
    async with keeping(store, models, "v1", "v2") as it:
        await until(lambda: models.kept == {"v2"} and list(it.refused) == ["v1"])
        models.kept.clear()
        await until(lambda: models.kept == {"v2"})
        assert it.rejections("golden") == 1
    assert models.tried.count("v1") == 1


async def test_a_version_is_loaded_once_the_device_works_again(store, models):
    models.refusals["v1"] = DeviceFault("a test")
    async with keeping(store, models, "v1") as it:
        await until(lambda: list(it.refused) == ["v1"])
        models.refusals.clear()
        await until(lambda: models.kept == {"v1"} and not it.refused)
        assert (it.rejections("device") or 0) >= 1


async def test_a_version_is_loaded_once_it_is_published(store, models):
    async with keeping(store, models, "v3") as it:
        await until(lambda: list(it.refused) == ["v3"])
        store.publish(tiny_artifact("v3")[0])
        await until(lambda: models.kept == {"v3"})
        assert (it.rejections("not_found") or 0) >= 1

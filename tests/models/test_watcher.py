"""The watcher: which versions it activates, and when it tries a failed version again."""

import asyncio
import errno
import json
import math
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from animora_artifact import (
    Artifact,
    ArtifactRejected,
    FolderStore,
    Manifest,
    Pointer,
    SizeLimit,
    StoreUnavailable,
    VersionSource,
    pointer_keys,
)
from animora_artifact.errors import RejectionReason
from animora_server.errors import DeviceFault
from animora_server.models import ModelWatcher, open_models
from animora_server.models.model_store import size_limit
from animora_server.observability.metrics import ModelMetrics
from animora_server.rollout.trial import Breach
from animora_server.rollout_names import Band
from animora_server.settings import ModelSettings
from tests.support.artifacts import tiny_artifact
from tests.support.clocks import ManualClock
from tests.support.signing_keys import write_keys
from tests.support.until import until


class FakeModels:
    """Activates every version except those in `refusals`."""

    def __init__(self):
        self.active_version: str | None = None
        self.refusals: dict[str, Exception] = {}
        self.tried: list[str] = []
        self.resident: set[str] = set()
        self.manifests: dict[str, Manifest] = {}

    async def activate(self, artifact: Artifact) -> None:
        version = artifact.manifest.version
        self.tried.append(version)
        if version in self.refusals:
            raise self.refusals[version]
        self.active_version = version
        self.manifests[version] = artifact.manifest

    def roll_back(self, version: str, previous: str) -> Manifest | None:
        if version == self.active_version and previous in self.resident:
            self.active_version = previous
            return self.manifests[previous]
        return None


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
async def _watching(store, models):
    metrics = ModelMetrics(CollectorRegistry())
    store.activate("v1")
    async with ModelWatcher(store, models, 0.01, metrics):
        await until(lambda: models.tried == ["v1"])
        yield


@pytest.mark.usefixtures("_watching")
async def test_a_rejected_version_is_tried_again_only_after_active_changes(store, models):
    models.refusals["v2"] = ArtifactRejected(RejectionReason.DIGEST, "flipped")
    store.activate("v2")
    await until(lambda: models.tried == ["v1", "v2"])
    store.activate("v1")
    models.active_version = None  # so that v1 is activated again
    await until(lambda: models.tried == ["v1", "v2", "v1"])
    models.refusals.clear()
    store.activate("v2")
    await until(lambda: models.tried == ["v1", "v2", "v1", "v2"])


@pytest.mark.usefixtures("_watching")
async def test_a_version_that_failed_on_the_device_is_tried_again(store, models):
    models.refusals["v2"] = DeviceFault("out of memory, for now")
    store.activate("v2")
    await until(lambda: models.tried.count("v2") >= 2)
    models.refusals.clear()
    tried = models.tried.count("v2")
    await until(lambda: models.tried.count("v2") > tried or models.active_version == "v2")


@pytest.mark.usefixtures("_watching")
async def test_the_active_version_is_not_activated_again(store, models):
    store.activate("v2")
    await until(lambda: models.tried[-1] == "v2")
    store.activate("v1")
    await until(lambda: models.tried[-1] == "v1")
    assert models.tried == ["v1", "v2", "v1"]


class FailingStore:
    """A store whose calls may fail or block. See animora_artifact.ModelStore."""

    def __init__(self, store: VersionSource) -> None:
        self._store = store
        self.pointer_failure: BaseException | None = None
        self.read_failures: dict[str, BaseException] = {}
        self.answers = threading.Event()
        self.answers.set()
        self.reads = 0

    def pointer(self) -> Pointer:
        self.reads += 1
        self.answers.wait()
        if self.pointer_failure is not None:
            raise self.pointer_failure
        return self._store.pointer()

    def read(self, version: str) -> Artifact:
        if version in self.read_failures:
            raise self.read_failures[version]
        return self._store.read(version)


class ObservedWatcher:
    """A watcher and its metrics."""

    def __init__(self, store, models, clock) -> None:
        self.registry = CollectorRegistry()
        self.watcher = ModelWatcher(store, models, 0.01, ModelMetrics(self.registry), clock)

    def value(self, metric: str, **labels: str) -> float:
        found = self.registry.get_sample_value(metric, labels)
        assert found is not None
        return found

    async def until_refused(self, reason: str) -> None:
        """Waits until `ACTIVE` is refused for a reason, as it is now: a reading may be under way."""
        refusals = {"metric": "animora_model_active_refusals_total", "reason": reason}
        before = self.value(**refusals)
        await until(lambda: self.value(**refusals) >= before + 2)


@asynccontextmanager
async def watched(store, models, clock=None) -> AsyncIterator[ObservedWatcher]:
    observed = ObservedWatcher(store, models, clock or asyncio.get_running_loop().time)
    async with observed.watcher:
        yield observed


FAILURES = [
    OSError(errno.ESTALE, "Stale file handle"),
    StoreUnavailable("away"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    NotImplementedError("compression type 99"),
    ArtifactRejected(RejectionReason.CONTENT, "encrypted"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_server_that_starts_with_a_broken_version_falls_back_to_the_previous_one(
    store, models, failure
):
    failing = FailingStore(store)
    failing.read_failures["v2"] = failure
    store.activate("v1")
    store.activate("v2")
    async with watched(failing, models):
        await until(lambda: models.active_version == "v1")
    assert models.tried == ["v1"]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_any_error_of_a_version_leaves_the_watcher_running(store, models, failure):
    failing = FailingStore(store)
    failing.read_failures["v2"] = failure
    store.publish(tiny_artifact("v3")[0])
    store.activate("v1")
    async with watched(failing, models) as it:
        await until(lambda: models.active_version == "v1")
        rejections = "animora_model_rejections_total"
        store_errors = "animora_model_store_errors_total"
        store.activate("v2")
        await until(
            lambda: (
                it.value(store_errors)
                + sum(it.value(rejections, reason=reason) for reason in ModelMetrics.REASONS)
                > 0
            )
        )
        assert models.active_version == "v1"
        store.activate("v3")
        await until(lambda: models.active_version == "v3")
        assert it.watcher.loop.dead() is None


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_any_error_of_the_pointer_is_counted_and_leaves_the_watcher_running(store, models, failure):
    failing = FailingStore(store)
    failing.pointer_failure = failure
    store.activate("v1")
    async with watched(failing, models) as it:
        await until(lambda: sum(it.watcher.loop.failures.values()) >= 3)
        assert it.value("animora_model_store_age_seconds") == math.inf
        failing.pointer_failure = None
        await until(lambda: models.active_version == "v1")


async def test_a_failed_activation_keeps_the_active_version_instead_of_the_previous_one(store, models):
    models.refusals["v2"] = ArtifactRejected(RejectionReason.GOLDEN, "off")
    store.publish(tiny_artifact("v3")[0])
    for version in ("v1", "v3"):
        store.activate(version)
    counting = FailingStore(store)
    async with watched(counting, models) as it:
        await until(lambda: models.active_version == "v3")
        store.activate("v2")
        await until(lambda: it.value("animora_model_rejections_total", reason="golden") == 1)
        reads = counting.reads
        await until(lambda: counting.reads >= reads + 3)
        assert models.tried == ["v3", "v2"]


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "evicted"])
async def test_a_version_that_is_rolled_back_is_refused_until_active_changes(store, models, resident):
    for version in ("v1", "v2"):
        store.activate(version)
    counting = FailingStore(store)
    async with watched(counting, models) as it:
        await until(lambda: models.active_version == "v2")
        models.resident = {"v1"} if resident else set()
        models.manifests["v1"] = store.read("v1").manifest
        with capture_logs() as logs:
            it.watcher.roll_back("v2", "v1", Breach(Band.ERRORS, "6 of 6"))
        await until(lambda: models.active_version == "v1")
        assert ([line["event"] for line in logs], logs[0]["reason"]) == (
            ["model version rolled back"],
            "errors",
        )
        assert it.value("animora_model_rollbacks_total", band="errors") == 1
        assert it.value("animora_model_rolled_back", version="v2", band="errors") == 1
        await until(lambda: it.registry.get_sample_value("animora_model_active", {"version": "v1"}) == 1)
        reads = counting.reads
        await until(lambda: counting.reads >= reads + 3)
        assert models.tried == (["v2"] if resident else ["v2", "v1"])
        store.activate("v1")
        await until(
            lambda: (
                it.registry.get_sample_value("animora_model_rolled_back", {"version": "v2", "band": "errors"})
                is None
            )
        )
        store.activate("v2")
        await until(lambda: models.active_version == "v2")


async def test_a_version_that_is_rolled_back_serves_while_no_other_can(store, models):
    store.activate("v1")
    counting = FailingStore(store)
    async with watched(counting, models) as it:
        await until(lambda: models.active_version == "v1")
        it.watcher.roll_back("v1", None, Breach(Band.ERRORS, "6 of 6"))
        reads = counting.reads
        await until(lambda: counting.reads >= reads + 3)
        assert (models.active_version, models.tried) == ("v1", ["v1"])


async def test_a_version_rejected_for_its_dimensions_is_tried_again(store, models):
    models.refusals["v1"] = ArtifactRejected(RejectionReason.DIMENSIONS, "8 wide in the catalog")
    store.activate("v1")
    async with watched(store, models):
        await until(lambda: len(models.tried) >= 2)
        models.refusals.clear()
        await until(lambda: models.active_version == "v1" or len(models.tried) >= 3)


async def test_a_version_that_is_too_large_is_rejected_without_reading_its_files(store, models, tmp_path):
    size = 100 << 30
    os.truncate(tmp_path / "v2" / "model.ts", size)  # takes no disk
    manifest = json.loads((tmp_path / "v2" / "manifest.json").read_bytes())
    manifest["files"]["model.ts"]["size"] = size
    (tmp_path / "v2" / "manifest.json").write_text(json.dumps(manifest))
    store.activate("v1")
    store.activate("v2")
    opened = open_models(ModelSettings(store=str(tmp_path)))
    assert opened is not None
    counting = FailingStore(opened)
    with capture_logs() as logs:
        async with watched(counting, models) as it:
            await until(lambda: models.active_version == "v1")
            rejections = {"metric": "animora_model_rejections_total", "reason": "too_large"}
            assert it.value(**rejections) == 1
            reads = counting.reads
            await until(lambda: counting.reads >= reads + 3)
            assert it.value(**rejections) == 1
    (line,) = [line for line in logs if line["event"] == "model version refused"]
    assert re.search(r"(models.max_bytes|a quarter of the \d+ bytes of memory) allows \d+", line["detail"])
    assert models.tried == ["v1"]


def test_the_size_limit_is_the_setting_or_less_if_memory_is_short():
    settings = ModelSettings(max_bytes=1 << 30)
    assert size_limit(settings, 4 << 30) == SizeLimit(1 << 30, "models.max_bytes")
    less = SizeLimit((1 << 30) - 1, "a quarter of the 4294967292 bytes of memory")
    assert size_limit(settings, (4 << 30) - 4) == less
    alone = ModelSettings(max_bytes=1 << 30, preflight=False)
    assert size_limit(alone, 2 << 30).max_bytes == 1 << 30
    assert size_limit(alone, 1 << 30).max_bytes == 1 << 29


@pytest.mark.failure(17)
async def test_an_active_that_is_not_signed_by_the_key_is_refused_and_the_version_stays(
    store, models, tmp_path
):
    keys, other = write_keys(tmp_path / "keys"), write_keys(tmp_path / "other")
    FolderStore(tmp_path, keys=pointer_keys(private_key=keys.private)).activate("v1")
    signed = (tmp_path / "ACTIVE").read_bytes()
    checking = FolderStore(tmp_path, keys=pointer_keys(keys.public))
    async with watched(checking, models) as it:
        await until(lambda: models.active_version == "v1")
        forged = Pointer(("v2",), datetime.now(UTC)).to_bytes(pointer_keys(None, other.private).signer)
        for content in (b"v2\n", forged):
            (tmp_path / "ACTIVE").write_bytes(content)
            await it.until_refused("signature")
        assert models.tried == ["v1"]
        (tmp_path / "ACTIVE").write_bytes(signed)
        FolderStore(tmp_path, keys=pointer_keys(private_key=keys.private)).activate("v2")
        await until(lambda: models.active_version == "v2")


@pytest.mark.failure(17)
async def test_an_older_signed_active_that_was_put_back_is_refused(store, models, tmp_path):
    keys = write_keys(tmp_path / "keys")
    signing = FolderStore(tmp_path, keys=pointer_keys(private_key=keys.private))
    signing.activate("v1")
    older = (tmp_path / "ACTIVE").read_bytes()
    signing.activate("v2")
    newer = (tmp_path / "ACTIVE").read_bytes()
    async with watched(FolderStore(tmp_path, keys=pointer_keys(keys.public)), models) as it:
        await until(lambda: models.active_version == "v2")
        (tmp_path / "ACTIVE").write_bytes(older)
        await it.until_refused("replayed")
        assert models.tried == ["v2"]
        (tmp_path / "ACTIVE").write_bytes(newer)
        signing.activate("v1")  # a new signature of the same content as the older one's
        await until(lambda: models.active_version == "v1")


async def test_a_damaged_active_is_counted(store, models, tmp_path):
    store.activate("v1")
    async with watched(store, models) as it:
        await until(lambda: models.active_version == "v1")
        (tmp_path / "ACTIVE").write_text("no name at all")
        await it.until_refused("content")


@pytest.mark.failure(18)
async def test_a_store_that_vanishes_is_counted_and_the_active_version_stays(store, models, tmp_path):
    store.activate("v1")
    clock = ManualClock()
    async with watched(store, models, clock) as it:
        await until(lambda: models.active_version == "v1")
        assert it.value("animora_model_store_errors_total") == 0
        shutil.move(tmp_path, tmp_path.with_name("gone"))
        await until(lambda: it.value("animora_model_store_errors_total") >= 2)
        clock.now += 100.0
        assert it.value("animora_model_store_age_seconds") >= 100
        assert models.active_version == "v1"
        shutil.move(tmp_path.with_name("gone"), tmp_path)
        await until(lambda: it.value("animora_model_store_age_seconds") == 0)


@pytest.mark.failure(18)
async def test_a_blocked_read_increases_the_age_of_the_last_one(store, models):
    failing = FailingStore(store)
    store.activate("v1")
    clock = ManualClock()
    async with watched(failing, models, clock) as it:
        await until(lambda: models.active_version == "v1")
        failing.answers.clear()
        clock.now += 60.0
        await until(lambda: it.value("animora_model_store_age_seconds") >= 60)
        failing.answers.set()
        await until(lambda: it.value("animora_model_store_age_seconds") == 0)


async def test_a_store_without_an_active_version_is_not_an_error(store, models):
    counting = FailingStore(store)
    async with watched(counting, models) as it:
        await until(lambda: counting.reads >= 3)
        assert it.value("animora_model_store_errors_total") == 0
        assert it.value("animora_model_store_age_seconds") == math.inf
        store.activate("v2")
        await until(lambda: models.active_version == "v2")

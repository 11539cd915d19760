"""The model manager loads, encodes, swaps and evicts models while requests are served."""

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from animora_artifact import ArtifactRejected, Vocabulary
from animora_artifact.errors import RejectionReason
from animora_artifact.network import load_network
from animora_server.batching import Batcher, BatchLimits, CostModel
from animora_server.catalog import (
    NO_WIDTHS,
    ChangeEvents,
    Relations,
    WidthPreference,
    Widths,
)
from animora_server.errors import DeviceFault
from animora_server.inference.catalog_encoder import MIN_CAPACITY, CatalogEncoder
from animora_server.inference.device import Device
from animora_server.inference.graph_capture import EagerRecorder
from animora_server.inference.model_manager import ModelManager
from animora_server.inference.placeholder_models import UnavailableModel
from animora_server.inference.resident_model import BACKGROUND_CHUNK_ROWS, EXPLAIN_CHUNK_POSTS
from animora_server.observability.metrics import ScorerMetrics
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.settings import ScorerSettings
from tests.inference.neucf import WIDTH, compiled_artifact
from tests.support.artifacts import tiny_artifact
from tests.support.catalogs import GrowingCatalog
from tests.support.compilers import needs_compiler

LIMITS = BatchLimits(max_batch_rows=256)


class HeldEncoder:
    """A CatalogEncoder that a test can pause."""

    def __init__(self, encoder):
        self._encoder = encoder
        self._free = asyncio.Event()
        self._free.set()
        self.waiting = asyncio.Event()

    def hold(self):
        self._free.clear()

    def release(self):
        self._free.set()

    async def encode_snapshot(self, loaded, snapshot, previous):
        self.waiting.set()
        await self._free.wait()
        return await self._encoder.encode_snapshot(loaded, snapshot, previous)


@pytest.fixture(params=[None, EagerRecorder], ids=["eager", "captured"])
async def device(request):
    """A device that executes batches as they are, and one that pads them as on a GPU."""
    settings = ScorerSettings(device="cpu", max_batch_rows=LIMITS.max_batch_rows)
    async with Device(settings, on_fault=lambda: None, recorder=request.param) as device:
        yield device


@pytest.fixture
async def encoder(device):
    cost = CostModel()
    async with Batcher(device.score, LIMITS, cost, ScorerMetrics(CollectorRegistry())) as batcher:
        yield HeldEncoder(CatalogEncoder(device, batcher, cost, LIMITS.max_batch_rows))


@pytest.fixture
def model_manager(device, encoder):
    return ModelManager(ServingStateHolder(math.inf), device, encoder, max_models=2)


def soon() -> float:
    return asyncio.get_running_loop().time() + 60


def active(model_manager: ModelManager) -> Any:
    state = model_manager.states.latest
    assert state is not None
    assert state.active is not None
    return state.active


async def test_scores_equal_the_eager_networks_in_any_batch(model_manager):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200, 300, 400, *range(1000, 1100)]))
    await model_manager.activate(artifact)
    model = active(model_manager)
    rows = np.arange(104)
    single = await model.score(1, rows, soon())
    assert np.abs(single - catalog.eager(network, artifact.vocabulary, 1, rows)).max() < 1e-5
    batched = await asyncio.gather(
        *(model.score(1 + n % 3, np.roll(rows, n)[: 1 + n], soon()) for n in range(40))
    )
    for n, logits in enumerate(batched):
        expected = catalog.eager(network, artifact.vocabulary, 1 + n % 3, np.roll(rows, n)[: 1 + n])
        assert np.abs(logits - expected).max() < 1e-5


async def test_a_request_larger_than_a_batch_is_split(model_manager):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow(range(1000, 2000)))
    await model_manager.activate(artifact)
    rows = np.arange(1000)
    logits = await active(model_manager).score(2, rows, soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 2, rows)).max() < 1e-5


async def test_background_scores_equal_those_of_a_request_with_a_deadline(model_manager):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow(range(1000, 1000 + BACKGROUND_CHUNK_ROWS + 100)))
    await model_manager.activate(artifact)
    rows = np.arange(BACKGROUND_CHUNK_ROWS + 100)
    logits = await active(model_manager).score(2, rows, None)
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 2, rows)).max() < 1e-5


@pytest.mark.parametrize(("image", "caption"), [(3, 2), (3, 0), (0, 2), (0, 0)])
async def test_terms_add_up_to_the_logits_whatever_embeddings_the_catalog_has(model_manager, image, caption):
    # Trained and new posts, with and without embeddings, explained for several users at once.
    await model_manager.publish(
        GrowingCatalog(image=image, caption=caption).grow([100, 5000, 200, 5001, 5002, 300])
    )
    await model_manager.activate(tiny_artifact("v1")[0])
    model, rows = active(model_manager), np.array([5, 0, 4, 1, 3, 2])
    requests = [(user, np.roll(rows, user)[:count]) for user in (1, 2, 3) for count in (6, 1, 3)]
    batched = await asyncio.gather(*(model.explain(user, some, soon()) for user, some in requests))
    for (user, some), terms in zip(requests, batched, strict=True):
        assert terms.shape == (len(some), 8)
        assert np.allclose(terms.sum(axis=1), await model.score(user, some, soon()), atol=1e-5)
        assert np.array_equal(terms, await model.explain(user, some, soon()))
        absent = ~model.snapshot.has_embeddings(some)
        assert not terms[absent][:, [1, 2, 5, 6]].any()


async def test_other_requests_are_executed_between_the_chunks_of_an_explanation(model_manager):
    await model_manager.publish(GrowingCatalog().grow(range(1000, 1000 + 3 * EXPLAIN_CHUNK_POSTS)))
    await model_manager.activate(tiny_artifact("v1")[0])
    model, rows = active(model_manager), np.arange(3 * EXPLAIN_CHUNK_POSTS)
    explaining = asyncio.ensure_future(model.explain(1, rows, soon()))
    await asyncio.sleep(0)  # the first chunk is in the queue
    await model.score(2, rows, soon())
    assert not explaining.done()
    terms = await explaining
    assert np.allclose(terms.sum(axis=1), await model.score(1, rows, soon()), atol=1e-5)


async def test_explaining_no_posts_returns_no_terms(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    assert (await active(model_manager).explain(1, np.empty(0, np.int64), soon())).shape == (0, 8)


@needs_compiler
async def test_native_code_scores_as_torchscript_does(model_manager):
    artifact = compiled_artifact()
    snapshot = GrowingCatalog(image=WIDTH, caption=WIDTH).grow(
        [*artifact.vocabulary.post_ids[:50], *range(9000, 9050)]
    )
    await model_manager.publish(snapshot)
    assert not model_manager.compiled
    await model_manager.activate(artifact)
    assert model_manager.compiled
    model, rows = active(model_manager), np.arange(100)
    scripted = load_network(artifact.model, torch.device("cpu"))
    for user_row in (1, 20):
        logits = await model.score(user_row, rows, soon())
        every = torch.arange(100)
        with torch.inference_mode():
            expected = scripted.score(
                torch.tensor([user_row]), torch.zeros_like(every), model.table.vectors, every
            )
        assert np.abs(logits - expected.numpy()).max() < 1e-5
        terms = await model.explain(user_row, rows, soon())
        assert np.allclose(terms.sum(axis=1), logits, atol=1e-5)
    with pytest.raises(IndexError):
        await model.score(10**6, rows, soon())
    await model_manager.publish(GrowingCatalog(epoch=2).grow([100, 200]))
    await model_manager.activate(tiny_artifact("v2")[0])
    assert not model_manager.compiled


async def test_new_posts_are_encoded_before_they_are_published_and_older_states_stay_valid(model_manager):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(artifact)
    before = active(model_manager)
    await model_manager.publish(catalog.grow([300, *range(5000, 7000)]))  # beyond the first table's capacity
    after = active(model_manager)
    rows = np.arange(len(catalog.post_ids))
    logits = await after.score(1, rows, soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, rows)).max() < 1e-5
    assert np.array_equal(await before.score(1, rows[:2], soon()), logits[:2])


async def test_a_table_that_grows_is_captured_again_and_older_states_stay_valid(model_manager):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow(range(100, 200)))
    await model_manager.activate(artifact)
    before = active(model_manager)
    await model_manager.publish(catalog.grow(range(1000, 1000 + 2 * MIN_CAPACITY)))
    after = active(model_manager)
    assert after.table.vectors.data_ptr() != before.table.vectors.data_ptr()
    assert before.table.captured is None or after.table.captured is not before.table.captured
    old, new = np.arange(100), np.arange(100 + 2 * MIN_CAPACITY)[::-7].copy()
    for model, rows in ((after, new), (before, old), (after, old)):
        logits = await model.score(2, rows, soon())
        assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 2, rows)).max() < 1e-5


async def test_a_new_epoch_encodes_all_rows_again(model_manager):
    artifact, network = tiny_artifact("v1")
    await model_manager.publish(GrowingCatalog(epoch=1).grow([100, 200, 300]))
    await model_manager.activate(artifact)
    catalog = GrowingCatalog(epoch=2)
    await model_manager.publish(catalog.grow([300, 100]))
    rows = np.arange(2)
    logits = await active(model_manager).score(1, rows, soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, rows)).max() < 1e-5


async def test_a_post_has_features_if_its_id_or_an_embedding_is_known(model_manager):
    await model_manager.publish(
        GrowingCatalog().grow([100, 5000, 5001, 5002, 5003])
    )  # rows 0 and 4 have no embedding
    await model_manager.activate(tiny_artifact("v1")[0])
    assert active(model_manager).has_features(np.arange(5)).tolist() == [True, True, True, True, False]


async def test_a_catalog_without_embeddings_is_scored_by_id_alone(model_manager):
    catalog, (artifact, network) = GrowingCatalog(image=0, caption=0), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(artifact)
    logits = await active(model_manager).score(1, np.arange(2), soon())
    expected = (network.users[1] * network.posts[1:3]).sum(dim=1).detach().numpy()
    assert np.abs(logits - expected).max() < 1e-5


async def test_activation_waits_for_the_first_snapshot(model_manager):
    activation = asyncio.create_task(model_manager.activate(tiny_artifact("v1")[0]))
    await model_manager.publish(GrowingCatalog().grow([100]))
    await activation
    assert active(model_manager).version == "v1"


async def test_rolling_back_makes_the_version_before_active_at_once_and_evicts_the_newer_one(model_manager):
    catalog = GrowingCatalog()
    await model_manager.publish(catalog.grow([100, 200]))
    artifacts = [tiny_artifact(version, seed=int(version[1])) for version in ("v1", "v2")]
    networks = [network for _, network in artifacts]
    for artifact, _ in artifacts:
        await model_manager.activate(artifact)
    rows = np.arange(2)
    in_flight = active(model_manager)
    manifest = model_manager.roll_back("v2", "v1")
    assert manifest is not None
    assert manifest.version == model_manager.active_version == active(model_manager).version == "v1"
    assert list(model_manager.states.latest.resident) == ["v1"]
    for model, network in ((active(model_manager), networks[0]), (in_flight, networks[1])):
        expected = catalog.eager(network, tiny_artifact("v1")[0].vocabulary, 1, rows)
        assert np.abs(await model.score(1, rows, soon()) - expected).max() < 1e-5
    # A new snapshot keeps it so.
    await model_manager.publish(catalog.grow([300]))
    assert active(model_manager).version == "v1"
    assert list(model_manager.states.latest.resident) == ["v1"]


async def test_a_roll_back_during_a_publication_lasts(model_manager, encoder):
    catalog = GrowingCatalog()
    await model_manager.publish(catalog.grow([100, 200]))
    for version in ("v1", "v2"):
        await model_manager.activate(tiny_artifact(version)[0])
    encoder.hold()
    encoder.waiting.clear()
    publishing = asyncio.create_task(model_manager.publish(catalog.grow([300])))
    await encoder.waiting.wait()
    assert model_manager.roll_back("v2", "v1") is not None
    encoder.release()
    await publishing
    state = model_manager.states.latest
    assert (active(model_manager).version, list(state.resident), len(state.snapshot)) == ("v1", ["v1"], 3)


async def test_a_roll_back_to_a_version_that_is_not_resident_or_from_one_that_is_not_active_changes_nothing(
    model_manager,
):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    for version in ("v1", "v2", "v3"):
        await model_manager.activate(tiny_artifact(version)[0])
    before = model_manager.states.latest
    assert model_manager.roll_back("v3", "v1") is None  # v1 was evicted
    assert model_manager.roll_back("v2", "v3") is None
    assert model_manager.states.latest is before


async def test_the_least_recently_activated_version_is_evicted(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    for version in ("v1", "v2", "v3"):
        await model_manager.activate(tiny_artifact(version, seed=ord(version[1]))[0])
    assert active(model_manager).version == "v3"
    assert list(model_manager.states.latest.resident) == ["v2", "v3"]


async def test_a_resident_version_can_be_activated_again(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    artifacts = {version: tiny_artifact(version, seed=ord(version[1]))[0] for version in ("v1", "v2")}
    for version in ("v1", "v2", "v1"):
        await model_manager.activate(artifacts[version])
    assert active(model_manager).version == "v1"
    assert model_manager.active_version == "v1"


async def test_a_kept_version_is_resident_beside_the_active_one_and_never_active(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.keep(tiny_artifact("v2")[0])
    assert model_manager.active_version is None
    assert model_manager.states.latest.active is None
    await model_manager.activate(tiny_artifact("v1")[0])
    assert active(model_manager).version == "v1"
    assert model_manager.is_kept("v2")
    assert set(model_manager.states.latest.resident) == {"v1", "v2"}


async def test_versions_are_activated_many_times_while_a_kept_one_stays(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    await model_manager.keep(tiny_artifact("canary")[0])
    for number in range(2, 6):
        await model_manager.activate(tiny_artifact(f"v{number}")[0])
        assert set(model_manager.states.latest.resident) == {f"v{number}", "canary"}
        assert model_manager.versions == 2
        assert active(model_manager).version == f"v{number}"


async def test_keeping_a_version_evicts_an_earlier_active_one_above_the_limit(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    await model_manager.activate(tiny_artifact("v2")[0])
    await model_manager.keep(tiny_artifact("canary")[0])
    assert set(model_manager.states.latest.resident) == {"v2", "canary"}


async def test_a_kept_version_stays_when_it_was_active_and_another_one_follows(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.keep(tiny_artifact("v2")[0])
    for version in ("v2", "v3", "v4"):
        await model_manager.activate(tiny_artifact(version)[0])
    assert set(model_manager.states.latest.resident) == {"v2", "v4"}


async def test_posts_are_encoded_for_a_kept_version(model_manager):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v2", seed=2)
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1", seed=1)[0])
    await model_manager.keep(artifact)
    await model_manager.publish(catalog.grow([300, 1000]))
    logits = await model_manager.states.latest.resident["v2"].score(1, np.arange(4), soon())
    expected = catalog.eager(network, artifact.vocabulary, 1, np.arange(4))
    assert np.abs(logits - expected).max() < 1e-5


async def test_a_kept_version_for_other_embedding_widths_is_rejected_without_a_reconcile(model_manager):
    await model_manager.publish(GrowingCatalog(image=3).grow([100]))
    await model_manager.activate(tiny_artifact("v1", image=3)[0])
    with pytest.raises(ArtifactRejected) as error:
        await model_manager.keep(tiny_artifact("v2", image=5)[0])
    assert error.value.reason is RejectionReason.DIMENSIONS
    assert not model_manager.is_kept("v2")
    assert model_manager.width_preference.wanted == NO_WIDTHS


async def test_a_kept_version_is_unloaded_when_the_catalogs_embeddings_no_longer_fit_it(model_manager):
    await model_manager.publish(GrowingCatalog(image=3).grow([100]))
    await model_manager.activate(tiny_artifact("v1", image=3)[0])
    await model_manager.keep(tiny_artifact("v2", image=3)[0])
    await model_manager.publish(GrowingCatalog(image=5).grow([100]))
    assert not model_manager.is_kept("v2")
    assert "v2" not in model_manager.states.latest.resident


async def test_after_a_loss_of_the_device_a_kept_version_does_not_replace_the_active_one(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    await model_manager.keep(tiny_artifact("v2")[0])
    model_manager.on_device_lost()
    assert not model_manager.is_kept("v2")
    await model_manager.keep(tiny_artifact("v2")[0])
    state = model_manager.states.latest
    assert isinstance(state.active, UnavailableModel)
    assert state.active.version == "v1"
    assert state.resident["v2"].version == "v2"
    await model_manager.activate(tiny_artifact("v1")[0])
    assert set(model_manager.states.latest.resident) == {"v1", "v2"}


async def test_a_version_that_does_not_reproduce_its_golden_rows_is_rejected_and_the_active_one_stays(
    model_manager,
):
    await model_manager.publish(GrowingCatalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    artifact = tiny_artifact("v2")[0]
    golden = replace(artifact.golden, probabilities=artifact.golden.probabilities + np.float32(1e-3))
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(replace(artifact, golden=golden))
    assert refused.value.reason is RejectionReason.GOLDEN
    assert active(model_manager).version == "v1"


async def test_a_version_for_other_embedding_widths_is_rejected(model_manager):
    await model_manager.publish(GrowingCatalog(image=3).grow([100]))
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(tiny_artifact("v1", image=5)[0])
    assert refused.value.reason is RejectionReason.DIMENSIONS


async def test_a_version_for_other_embedding_widths_requests_a_reconcile_and_is_activated_after_it(
    device, encoder
):
    reconciles = []
    states = ServingStateHolder(math.inf)
    model_manager = ModelManager(states, device, encoder, 2, reconcile=lambda: reconciles.append(True))
    narrow, wide = tiny_artifact("v1")[0], tiny_artifact("v2", image=5)[0]
    await model_manager.publish(GrowingCatalog(image=3).grow([100]))
    await model_manager.activate(narrow)
    assert model_manager.width_preference == WidthPreference(serving=Widths(3, 2))
    for _ in range(2):
        with pytest.raises(ArtifactRejected):
            await model_manager.activate(wide)
    assert model_manager.width_preference == WidthPreference(serving=Widths(3, 2), wanted=Widths(5, 2))
    assert reconciles == [True]
    assert active(model_manager).version == "v1"

    await model_manager.publish(GrowingCatalog(image=5, epoch=2).grow([100]))
    await model_manager.activate(wide)

    assert active(model_manager).version == "v2"
    assert model_manager.width_preference == WidthPreference(serving=Widths(5, 2))
    model_manager.on_device_lost()
    assert model_manager.width_preference == WidthPreference(serving=Widths(5, 2))


async def test_embeddings_of_other_widths_count_as_absent_for_the_active_version(model_manager):
    artifact, network = tiny_artifact("v1")
    await model_manager.publish(GrowingCatalog(image=3).grow([100, 200, 999, 998]))
    await model_manager.activate(artifact)
    catalog = GrowingCatalog(image=5, caption=4, epoch=2)

    await model_manager.publish(catalog.grow([100, 200, 999, 998]))

    model, rows = active(model_manager), np.arange(4)
    assert model.has_features(rows).tolist() == [True, True, False, False]
    catalog.image, catalog.caption = np.zeros((4, 3), np.float16), np.zeros((4, 2), np.float16)
    found = await model.score(1, rows, asyncio.get_running_loop().time() + 30)
    assert found == pytest.approx(catalog.eager(network, artifact.vocabulary, 1, rows), abs=1e-5)


async def test_a_network_with_fewer_posts_than_its_vocabulary_is_rejected(model_manager):
    artifact = tiny_artifact("v1")[0]
    vocabulary = Vocabulary(artifact.vocabulary.user_ids, np.arange(50))
    dimensions = artifact.manifest.dimensions.model_copy(update={"posts": 51})
    manifest = artifact.manifest.model_copy(update={"dimensions": dimensions})
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(replace(artifact, manifest=manifest, vocabulary=vocabulary))
    assert refused.value.reason is RejectionReason.DIMENSIONS


async def test_a_file_that_is_not_a_network_is_rejected(model_manager):
    artifact = replace(tiny_artifact("v1")[0], model=b"not a network")
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(artifact)
    assert refused.value.reason is RejectionReason.CONTENT


async def test_a_row_out_of_range_fails_only_its_request(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1")[0])
    model = active(model_manager)
    good = np.array([0, 1])
    requests = [
        model.score(user, rows, soon()) for user, rows in ((1, good), (1, np.array([10**9])), (2, good))
    ]
    await asyncio.wait(requests)
    assert [request.exception() is None for request in requests] == [True, False, True]
    assert np.array_equal(requests[0].result(), await model.score(1, good, soon()))


async def test_activation_fails_if_the_device_is_lost_meanwhile(model_manager, encoder):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    artifact = tiny_artifact("v1")[0]
    encoder.hold()
    activation = asyncio.create_task(model_manager.activate(artifact))
    for _ in range(2):  # the second encoding finds nothing new
        await encoder.waiting.wait()
        encoder.waiting.clear()
        encoder.release()
        encoder.hold()
    model_manager.on_device_lost()
    with pytest.raises(DeviceFault):
        await activation
    assert model_manager.active_version is None

    encoder.release()
    await model_manager.activate(artifact)
    assert active(model_manager).version == "v1"


async def test_models_are_unavailable_if_the_device_is_lost_while_a_snapshot_is_encoded(
    model_manager, encoder
):
    catalog, (artifact, network) = GrowingCatalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(artifact)
    later = catalog.grow([300])
    encoder.hold()
    encoder.waiting.clear()
    publication = asyncio.create_task(model_manager.publish(later))
    await encoder.waiting.wait()
    model_manager.on_device_lost()
    encoder.release()
    await publication

    assert isinstance(active(model_manager), UnavailableModel)
    assert active(model_manager).snapshot is later
    with pytest.raises(DeviceFault):
        await active(model_manager).score(1, np.arange(3), soon())
    await model_manager.activate(artifact)
    logits = await active(model_manager).score(1, np.arange(3), soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, np.arange(3))).max() < 1e-5


def visible(model_manager: ModelManager):
    """The users who block or are blocked by user 1, and the posts that are not deleted."""
    state = model_manager.states.latest
    assert state is not None
    snapshot = state.snapshot
    live = ~snapshot.is_deleted(np.arange(len(snapshot)))
    return snapshot.related_authors(1).tolist(), snapshot.post_ids[live].tolist()


async def test_events_change_the_current_state_at_once_but_not_older_states_or_models(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1")[0])
    before = model_manager.states.latest

    model_manager.apply(ChangeEvents(frozenset({(1, 2)}), frozenset({200})))

    assert visible(model_manager) == ([2], [100])
    assert active(model_manager) is before.active
    assert before.snapshot.related_authors(1).tolist() == []
    assert not before.snapshot.is_deleted(np.arange(2)).any()


async def test_events_that_arrive_while_a_snapshot_is_encoded_are_in_both_snapshots(model_manager, encoder):
    catalog = GrowingCatalog()
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1")[0])
    later = catalog.grow([300])
    model_manager.apply(ChangeEvents(frozenset({(1, 2)}), frozenset({100, 300})))
    encoder.hold()
    publication = asyncio.create_task(model_manager.publish(later))
    encoder.waiting.clear()
    await encoder.waiting.wait()
    model_manager.apply(ChangeEvents(frozenset({(3, 1)}), frozenset({200})))
    assert visible(model_manager) == ([2, 3], [])
    assert len(model_manager.states.latest.snapshot) == 2

    encoder.release()
    await publication

    assert len(model_manager.states.latest.snapshot) == 3
    assert visible(model_manager) == ([2, 3], [])


async def test_events_that_arrive_during_an_activation_are_kept(model_manager, encoder):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    encoder.hold()
    activation = asyncio.create_task(model_manager.activate(tiny_artifact("v1")[0]))
    await encoder.waiting.wait()
    model_manager.apply(ChangeEvents(frozenset({(1, 2)}), frozenset({100})))
    assert visible(model_manager) == ([2], [200])

    encoder.release()
    await activation

    assert active(model_manager).version == "v1"
    assert visible(model_manager) == ([2], [200])


async def test_events_that_arrive_within_the_swap_of_a_model_are_kept(model_manager, encoder):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    encoder.hold()
    activation = asyncio.create_task(model_manager.activate(tiny_artifact("v1")[0]))
    for _ in range(2):  # the first encoding is outside the swap's lock, the second within
        await encoder.waiting.wait()
        encoder.waiting.clear()
        assert visible(model_manager) == ([], [100, 200])
        encoder.release()
        encoder.hold()
    model_manager.apply(ChangeEvents(frozenset({(1, 2)})))
    await activation

    assert visible(model_manager) == ([2], [100, 200])


async def test_events_from_before_a_reading_are_not_applied_to_its_snapshot(model_manager):
    catalog = GrowingCatalog()
    await model_manager.publish(catalog.grow([100, 200]))
    model_manager.apply(ChangeEvents(frozenset({(1, 2)}), frozenset({200})))
    assert visible(model_manager) == ([2], [100])

    await model_manager.publish(catalog.grow([300]))  # whose reading no longer has them

    assert visible(model_manager) == ([], [100, 200, 300])


async def test_events_that_arrive_before_the_first_snapshot_are_in_it(model_manager):
    snapshot = GrowingCatalog().grow([100, 200])
    model_manager.apply(ChangeEvents(frozenset({(2, 1)}), frozenset({100})))
    assert model_manager.states.latest is None

    await model_manager.publish(snapshot)

    assert visible(model_manager) == ([2], [200])


def relations(*blocks):
    columns = np.array(blocks, np.int64).reshape(-1, 2)
    return Relations.of(columns[:, 0], columns[:, 1])


async def test_newer_blocks_are_published_at_once_and_kept(model_manager):
    catalog = GrowingCatalog()
    await model_manager.publish(catalog.grow([100, 200]))
    older = catalog.grow([300])
    model_manager.publish_blocks(relations((1, 2)), time.monotonic())
    assert visible(model_manager) == ([2], [100, 200])

    await model_manager.publish(older)  # whose reading of the blocks began earlier

    assert visible(model_manager) == ([2], [100, 200, 300])
    await model_manager.publish(catalog.grow([400]))  # whose reading of the blocks began later
    assert visible(model_manager)[0] == []


async def test_older_blocks_are_ignored(model_manager):
    read_at = time.monotonic()
    await model_manager.publish(GrowingCatalog().grow([100]))

    model_manager.publish_blocks(relations((1, 2)), read_at)

    assert visible(model_manager) == ([], [100])


async def test_newer_blocks_replace_notified_blocks_but_not_notified_deletions(model_manager):
    await model_manager.publish(GrowingCatalog().grow([100, 200]))
    model_manager.apply(ChangeEvents(frozenset({(1, 2)}), frozenset({100})))
    model_manager.publish_blocks(relations((1, 3)), time.monotonic())
    assert visible(model_manager) == ([3], [200])

    model_manager.apply(ChangeEvents(frozenset({(1, 2)})))

    assert visible(model_manager) == ([2, 3], [200])


async def test_blocks_published_before_the_first_snapshot_are_in_it(model_manager):
    snapshot = GrowingCatalog().grow([100])
    assert model_manager.block_age == float("inf")
    model_manager.publish_blocks(relations((1, 2)), time.monotonic())
    assert model_manager.block_age < float("inf")

    await model_manager.publish(snapshot)

    assert visible(model_manager) == ([2], [100])

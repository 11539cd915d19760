"""Residency: models on the device, encoded for the catalog, swapped without a gap."""

import asyncio
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
    CatalogSnapshot,
    ChangeEvents,
    CsrIndex,
    EmbeddingFile,
    FeedIndex,
    IdMap,
    Relations,
    WidthPreference,
    Widths,
)
from animora_server.catalog.embeddings import fingerprints
from animora_server.errors import DeviceFault
from animora_server.inference import CatalogEncoder, ModelManager
from animora_server.inference.catalog_encoder import MIN_CAPACITY
from animora_server.inference.device import Device
from animora_server.inference.graph_capture import EagerRecorder
from animora_server.inference.resident_model import EXPLAINED_AT_ONCE, TURN_ROWS
from animora_server.inference.unavailable_model import UnavailableModel
from animora_server.observability.metrics import ScorerMetrics
from animora_server.settings import ScorerSettings
from tests.compilers import needs_compiler
from tests.inference.artifacts import tiny_artifact
from tests.inference.neucf import WIDTH, compiled_artifact

LIMITS = BatchLimits(max_batch_rows=256)


class Catalog:
    """A growing catalog whose posts have random embeddings, every fourth none."""

    def __init__(self, image: int = 3, caption: int = 2, epoch: int = 1):
        self.random = np.random.default_rng(epoch)
        self.epoch = epoch
        self.embeddings = EmbeddingFile(None, image, caption)
        self.image = np.empty((0, image), np.float16)
        self.caption = np.empty((0, caption), np.float16)
        self.post_ids = np.empty(0, np.int64)

    def grow(self, post_ids) -> CatalogSnapshot:
        image = self.random.normal(size=(len(post_ids), self.image.shape[1])).astype(np.float16)
        caption = self.random.normal(size=(len(post_ids), self.caption.shape[1])).astype(np.float16)
        image[::4] = 0
        caption[::4] = 0
        self.embeddings.write(len(self.post_ids), image, caption)
        self.image = np.concatenate((self.image, image))
        self.caption = np.concatenate((self.caption, caption))
        self.post_ids = np.concatenate((self.post_ids, np.array(post_ids, np.int64)))
        rows = len(self.post_ids)
        return CatalogSnapshot(
            epoch=self.epoch,
            post_ids=self.post_ids,
            author_ids=np.zeros(rows, np.int64),
            created_at=np.zeros(rows),
            deleted=np.zeros(rows, np.bool_),
            interactions=np.zeros(rows, np.int64),
            fingerprints=fingerprints(self.image, self.caption),
            max_interactions=0,
            arrived_at=np.zeros(rows),
            embeddings=self.embeddings,
            read_at=0.0,
            feed=FeedIndex.of(np.zeros(rows), np.arange(rows)),
            posts_read_at=time.monotonic(),
            blocks_read_at=time.monotonic(),
            index=IdMap.of(self.post_ids, np.arange(rows)),
            relations=Relations.empty(),
            seen_base=CsrIndex.empty(),
            seen_recent=CsrIndex.empty(),
        )

    def eager(self, network, vocabulary, user_row, rows):
        """What the eager network gives on the same inputs."""
        post_rows = [
            int(np.flatnonzero(vocabulary.post_ids == post)[0]) + 1 if post in vocabulary.post_ids else 0
            for post in self.post_ids[rows]
        ]
        with torch.inference_mode():
            vectors = network.encode_posts(
                torch.tensor(post_rows),
                torch.from_numpy(self.image[rows].astype(np.float32)),
                torch.from_numpy(self.caption[rows].astype(np.float32)),
            )
            return network.forward(torch.full((len(rows),), user_row), vectors).numpy()


class HeldBinder:
    """A binder that can be held up."""

    def __init__(self, encoder):
        self._encoder = encoder
        self._free = asyncio.Event()
        self._free.set()
        self.waiting = asyncio.Event()

    def hold(self):
        self._free.clear()

    def release(self):
        self._free.set()

    async def bind(self, loaded, snapshot, bound):
        self.waiting.set()
        await self._free.wait()
        return await self._encoder.bind(loaded, snapshot, bound)


@pytest.fixture(params=[None, EagerRecorder], ids=["as they come", "recorded"])
async def device(request):
    """A device that runs batches as they come, and one that pads them as a GPU does."""
    settings = ScorerSettings(device="cpu", max_batch_rows=LIMITS.max_batch_rows)
    async with Device(settings, on_fault=lambda: None, recorder=request.param) as device:
        yield device


@pytest.fixture
async def encoder(device):
    cost = CostModel()
    async with Batcher(device.score, LIMITS, cost, ScorerMetrics(CollectorRegistry())) as batcher:
        yield HeldBinder(CatalogEncoder(device, batcher, cost, LIMITS.max_batch_rows))


@pytest.fixture
def model_manager(device, encoder):
    return ModelManager(device, encoder, max_models=2)


def soon() -> float:
    return asyncio.get_running_loop().time() + 60


def active(model_manager: ModelManager) -> Any:
    pin = model_manager.current()
    assert pin is not None
    assert pin.active is not None
    return pin.active


async def test_scores_equal_the_eager_network_alone_and_in_any_batch(model_manager):
    catalog, (artifact, network) = Catalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200, 300, 400, *range(1000, 1100)]))
    await model_manager.activate(artifact)
    model = active(model_manager)
    rows = np.arange(104)
    alone = await model.score(1, rows, soon())
    assert np.abs(alone - catalog.eager(network, artifact.vocabulary, 1, rows)).max() < 1e-5
    together = await asyncio.gather(
        *(model.score(1 + n % 3, np.roll(rows, n)[: 1 + n], soon()) for n in range(40))
    )
    for n, logits in enumerate(together):
        mine = catalog.eager(network, artifact.vocabulary, 1 + n % 3, np.roll(rows, n)[: 1 + n])
        assert np.abs(logits - mine).max() < 1e-5


async def test_a_request_larger_than_a_batch_is_cut_and_joined(model_manager):
    catalog, (artifact, network) = Catalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow(range(1000, 2000)))
    await model_manager.activate(artifact)
    rows = np.arange(1000)
    logits = await active(model_manager).score(2, rows, soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 2, rows)).max() < 1e-5


async def test_scores_that_nobody_waits_for_are_the_same(model_manager):
    catalog, (artifact, network) = Catalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow(range(1000, 1000 + TURN_ROWS + 100)))
    await model_manager.activate(artifact)
    rows = np.arange(TURN_ROWS + 100)
    logits = await active(model_manager).score(2, rows, None)
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 2, rows)).max() < 1e-5


@pytest.mark.parametrize(("image", "caption"), [(3, 2), (3, 0), (0, 2), (0, 0)])
async def test_terms_add_up_to_the_logits_whatever_embeddings_the_catalog_has(model_manager, image, caption):
    # Trained and new posts, with and without embeddings, explained for several users at once.
    await model_manager.publish(Catalog(image=image, caption=caption).grow([100, 5000, 200, 5001, 5002, 300]))
    await model_manager.activate(tiny_artifact("v1")[0])
    model, rows = active(model_manager), np.array([5, 0, 4, 1, 3, 2])
    works = [(user, np.roll(rows, user)[:count]) for user in (1, 2, 3) for count in (6, 1, 3)]
    together = await asyncio.gather(*(model.explain(user, some, soon()) for user, some in works))
    for (user, some), terms in zip(works, together, strict=True):
        assert terms.shape == (len(some), 8)
        assert np.allclose(terms.sum(axis=1), await model.score(user, some, soon()), atol=1e-5)
        assert np.array_equal(terms, await model.explain(user, some, soon()))
        absent = ~model.snapshot.has_embeddings(some)
        assert not terms[absent][:, [1, 2, 5, 6]].any()


async def test_other_work_goes_first_while_many_posts_are_explained(model_manager):
    await model_manager.publish(Catalog().grow(range(1000, 1000 + 3 * EXPLAINED_AT_ONCE)))
    await model_manager.activate(tiny_artifact("v1")[0])
    model, rows = active(model_manager), np.arange(3 * EXPLAINED_AT_ONCE)
    explaining = asyncio.ensure_future(model.explain(1, rows, soon()))
    await asyncio.sleep(0)  # its first part is in the queue
    await model.score(2, rows, soon())
    assert not explaining.done()
    terms = await explaining
    assert np.allclose(terms.sum(axis=1), await model.score(1, rows, soon()), atol=1e-5)


async def test_no_posts_have_no_terms(model_manager):
    await model_manager.publish(Catalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    assert (await active(model_manager).explain(1, np.empty(0, np.int64), soon())).shape == (0, 8)


@needs_compiler
async def test_a_version_with_compiled_code_is_scored_by_it_and_torchscript_tells_the_same(model_manager):
    artifact = compiled_artifact()
    snapshot = Catalog(image=WIDTH, caption=WIDTH).grow(
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
    await model_manager.publish(Catalog(epoch=2).grow([100, 200]))
    await model_manager.activate(tiny_artifact("v2")[0])
    assert not model_manager.compiled


async def test_new_posts_are_encoded_before_they_are_seen_and_older_pins_stay_right(model_manager):
    catalog, (artifact, network) = Catalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(artifact)
    before = active(model_manager)
    await model_manager.publish(catalog.grow([300, *range(5000, 7000)]))  # beyond the first table's capacity
    after = active(model_manager)
    rows = np.arange(len(catalog.post_ids))
    logits = await after.score(1, rows, soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, rows)).max() < 1e-5
    assert np.array_equal(await before.score(1, rows[:2], soon()), logits[:2])


async def test_a_table_that_grows_is_recorded_anew_and_older_pins_stay_right(model_manager):
    catalog, (artifact, network) = Catalog(), tiny_artifact("v1")
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


async def test_a_new_epoch_assigns_rows_anew(model_manager):
    artifact, network = tiny_artifact("v1")
    await model_manager.publish(Catalog(epoch=1).grow([100, 200, 300]))
    await model_manager.activate(artifact)
    catalog = Catalog(epoch=2)
    await model_manager.publish(catalog.grow([300, 100]))
    rows = np.arange(2)
    logits = await active(model_manager).score(1, rows, soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, rows)).max() < 1e-5


async def test_a_post_is_informed_by_its_id_or_by_an_embedding(model_manager):
    await model_manager.publish(
        Catalog().grow([100, 5000, 5001, 5002, 5003])
    )  # rows 0 and 4 have no embedding
    await model_manager.activate(tiny_artifact("v1")[0])
    assert active(model_manager).has_features(np.arange(5)).tolist() == [True, True, True, True, False]


async def test_a_catalog_without_embeddings_is_scored_by_id_alone(model_manager):
    catalog, (artifact, network) = Catalog(image=0, caption=0), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(artifact)
    logits = await active(model_manager).score(1, np.arange(2), soon())
    expected = (network.users[1] * network.posts[1:3]).sum(dim=1).detach().numpy()
    assert np.abs(logits - expected).max() < 1e-5


async def test_a_model_activated_before_the_catalog_answers_once_it_is_there(model_manager):
    activation = asyncio.create_task(model_manager.activate(tiny_artifact("v1")[0]))
    await model_manager.publish(Catalog().grow([100]))
    await activation
    assert active(model_manager).version == "v1"


async def test_the_version_before_stays_resident_and_older_ones_leave(model_manager):
    await model_manager.publish(Catalog().grow([100, 200]))
    for version in ("v1", "v2", "v3"):
        await model_manager.activate(tiny_artifact(version, seed=ord(version[1]))[0])
    pin = model_manager.current()
    assert active(model_manager).version == "v3"
    assert list(pin.resident) == ["v2", "v3"]


async def test_going_back_to_a_resident_version_makes_it_active_again(model_manager):
    await model_manager.publish(Catalog().grow([100, 200]))
    artifacts = {version: tiny_artifact(version, seed=ord(version[1]))[0] for version in ("v1", "v2")}
    for version in ("v1", "v2", "v1"):
        await model_manager.activate(artifacts[version])
    assert active(model_manager).version == "v1"
    assert model_manager.active_version == "v1"


async def test_a_version_that_does_not_replay_its_golden_rows_is_refused_and_the_old_one_stays(model_manager):
    await model_manager.publish(Catalog().grow([100]))
    await model_manager.activate(tiny_artifact("v1")[0])
    artifact = tiny_artifact("v2")[0]
    golden = replace(artifact.golden, probabilities=artifact.golden.probabilities + np.float32(1e-3))
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(replace(artifact, golden=golden))
    assert refused.value.reason is RejectionReason.GOLDEN
    assert active(model_manager).version == "v1"


async def test_a_version_for_other_embeddings_than_the_catalogs_is_refused(model_manager):
    await model_manager.publish(Catalog(image=3).grow([100]))
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(tiny_artifact("v1", image=5)[0])
    assert refused.value.reason is RejectionReason.DIMENSIONS


async def test_a_refused_version_has_the_catalog_take_its_widths_and_then_answers(device, encoder):
    asked = []
    model_manager = ModelManager(device, encoder, max_models=2, reconcile=lambda: asked.append(True))
    narrow, wide = tiny_artifact("v1")[0], tiny_artifact("v2", image=5)[0]
    await model_manager.publish(Catalog(image=3).grow([100]))
    await model_manager.activate(narrow)
    assert model_manager.width_preference == WidthPreference(serving=Widths(3, 2))
    for _ in range(2):
        with pytest.raises(ArtifactRejected):
            await model_manager.activate(wide)
    assert model_manager.width_preference == WidthPreference(serving=Widths(3, 2), wanted=Widths(5, 2))
    assert asked == [True]
    assert active(model_manager).version == "v1"

    await model_manager.publish(Catalog(image=5, epoch=2).grow([100]))
    await model_manager.activate(wide)

    assert active(model_manager).version == "v2"
    assert model_manager.width_preference == WidthPreference(serving=Widths(5, 2))
    model_manager.lose()
    assert model_manager.width_preference == WidthPreference(serving=Widths(5, 2))


async def test_embeddings_of_other_widths_count_as_absent_for_a_version_that_answers(model_manager):
    artifact, network = tiny_artifact("v1")
    await model_manager.publish(Catalog(image=3).grow([100, 200, 999, 998]))
    await model_manager.activate(artifact)
    catalog = Catalog(image=5, caption=4, epoch=2)

    await model_manager.publish(catalog.grow([100, 200, 999, 998]))

    model, rows = active(model_manager), np.arange(4)
    assert model.has_features(rows).tolist() == [True, True, False, False]
    catalog.image, catalog.caption = np.zeros((4, 3), np.float16), np.zeros((4, 2), np.float16)
    found = await model.score(1, rows, asyncio.get_running_loop().time() + 30)
    assert found == pytest.approx(catalog.eager(network, artifact.vocabulary, 1, rows), abs=1e-5)


async def test_a_network_with_fewer_posts_than_its_vocabulary_is_refused(model_manager):
    artifact = tiny_artifact("v1")[0]
    vocabulary = Vocabulary(artifact.vocabulary.user_ids, np.arange(50))
    dimensions = artifact.manifest.dimensions.model_copy(update={"posts": 51})
    manifest = artifact.manifest.model_copy(update={"dimensions": dimensions})
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(replace(artifact, manifest=manifest, vocabulary=vocabulary))
    assert refused.value.reason is RejectionReason.DIMENSIONS


async def test_a_file_that_is_no_network_is_refused(model_manager):
    artifact = replace(tiny_artifact("v1")[0], model=b"not a network")
    with pytest.raises(ArtifactRejected) as refused:
        await model_manager.activate(artifact)
    assert refused.value.reason is RejectionReason.CONTENT


async def test_an_impossible_row_fails_its_own_request_only(model_manager):
    await model_manager.publish(Catalog().grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1")[0])
    model = active(model_manager)
    good = np.array([0, 1])
    works = [model.score(user, rows, soon()) for user, rows in ((1, good), (1, np.array([10**9])), (2, good))]
    await asyncio.wait(works)
    assert [work.exception() is None for work in works] == [True, False, True]
    assert np.array_equal(works[0].result(), await model.score(1, good, soon()))


async def test_a_device_that_goes_while_a_model_is_made_ready_leaves_none(model_manager, encoder):
    await model_manager.publish(Catalog().grow([100, 200]))
    artifact = tiny_artifact("v1")[0]
    encoder.hold()
    activation = asyncio.create_task(model_manager.activate(artifact))
    for _ in range(2):  # the second time nothing is left to be asked of the device
        await encoder.waiting.wait()
        encoder.waiting.clear()
        encoder.release()
        encoder.hold()
    model_manager.lose()
    with pytest.raises(DeviceFault):
        await activation
    assert model_manager.active_version is None

    encoder.release()
    await model_manager.activate(artifact)
    assert active(model_manager).version == "v1"


async def test_a_device_that_goes_while_a_snapshot_is_encoded_has_lost_its_models(model_manager, encoder):
    catalog, (artifact, network) = Catalog(), tiny_artifact("v1")
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(artifact)
    later = catalog.grow([300])
    encoder.hold()
    encoder.waiting.clear()
    publication = asyncio.create_task(model_manager.publish(later))
    await encoder.waiting.wait()
    model_manager.lose()
    encoder.release()
    await publication

    assert isinstance(active(model_manager), UnavailableModel)
    assert active(model_manager).snapshot is later
    with pytest.raises(DeviceFault):
        await active(model_manager).score(1, np.arange(3), soon())
    await model_manager.activate(artifact)
    logits = await active(model_manager).score(1, np.arange(3), soon())
    assert np.abs(logits - catalog.eager(network, artifact.vocabulary, 1, np.arange(3))).max() < 1e-5


def seen(model_manager: ModelManager):
    """Whom user 1 is related to, and the posts that are not deleted."""
    pin = model_manager.current()
    assert pin is not None
    snapshot = pin.snapshot
    shown = ~snapshot.is_deleted(np.arange(len(snapshot)))
    return snapshot.related_authors(1).tolist(), snapshot.post_ids[shown].tolist()


async def test_facts_are_seen_at_once_and_leave_older_pins_and_models_alone(model_manager):
    await model_manager.publish(Catalog().grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1")[0])
    before = model_manager.current()

    model_manager.correct(ChangeEvents(frozenset({(1, 2)}), frozenset({200})))

    assert seen(model_manager) == ([2], [100])
    assert active(model_manager) is before.active
    assert before.snapshot.related_authors(1).tolist() == []
    assert not before.snapshot.is_deleted(np.arange(2)).any()


async def test_facts_that_come_while_a_snapshot_is_encoded_are_seen_before_and_after(model_manager, encoder):
    catalog = Catalog()
    await model_manager.publish(catalog.grow([100, 200]))
    await model_manager.activate(tiny_artifact("v1")[0])
    later = catalog.grow([300])
    model_manager.correct(ChangeEvents(frozenset({(1, 2)}), frozenset({100, 300})))
    encoder.hold()
    publication = asyncio.create_task(model_manager.publish(later))
    encoder.waiting.clear()
    await encoder.waiting.wait()
    model_manager.correct(ChangeEvents(frozenset({(3, 1)}), frozenset({200})))
    assert seen(model_manager) == ([2, 3], [])
    assert len(model_manager.current().snapshot) == 2

    encoder.release()
    await publication

    assert len(model_manager.current().snapshot) == 3
    assert seen(model_manager) == ([2, 3], [])


async def test_facts_that_come_while_a_model_is_made_ready_stay(model_manager, encoder):
    await model_manager.publish(Catalog().grow([100, 200]))
    encoder.hold()
    activation = asyncio.create_task(model_manager.activate(tiny_artifact("v1")[0]))
    await encoder.waiting.wait()
    model_manager.correct(ChangeEvents(frozenset({(1, 2)}), frozenset({100})))
    assert seen(model_manager) == ([2], [200])

    encoder.release()
    await activation

    assert active(model_manager).version == "v1"
    assert seen(model_manager) == ([2], [200])


async def test_facts_that_come_within_the_swap_of_a_model_stay(model_manager, encoder):
    await model_manager.publish(Catalog().grow([100, 200]))
    encoder.hold()
    activation = asyncio.create_task(model_manager.activate(tiny_artifact("v1")[0]))
    for _ in range(2):  # the model is bound once for the long part, and once within the swap
        await encoder.waiting.wait()
        encoder.waiting.clear()
        assert seen(model_manager) == ([], [100, 200])
        encoder.release()
        encoder.hold()
    model_manager.correct(ChangeEvents(frozenset({(1, 2)})))
    await activation

    assert seen(model_manager) == ([2], [100, 200])


async def test_facts_that_came_before_a_reading_began_are_not_applied_to_it(model_manager):
    catalog = Catalog()
    await model_manager.publish(catalog.grow([100, 200]))
    model_manager.correct(ChangeEvents(frozenset({(1, 2)}), frozenset({200})))
    assert seen(model_manager) == ([2], [100])

    await model_manager.publish(catalog.grow([300]))  # they were taken back since

    assert seen(model_manager) == ([], [100, 200, 300])


async def test_facts_that_come_before_the_first_snapshot_are_in_it(model_manager):
    snapshot = Catalog().grow([100, 200])
    model_manager.correct(ChangeEvents(frozenset({(2, 1)}), frozenset({100})))
    assert model_manager.current() is None

    await model_manager.publish(snapshot)

    assert seen(model_manager) == ([2], [200])


def relations(*blocks):
    columns = np.array(blocks, np.int64).reshape(-1, 2)
    return Relations.of(columns[:, 0], columns[:, 1])


async def test_newer_blocks_are_seen_at_once_and_stay(model_manager):
    catalog = Catalog()
    await model_manager.publish(catalog.grow([100, 200]))
    older = catalog.grow([300])
    model_manager.publish_blocks(relations((1, 2)), time.monotonic())
    assert seen(model_manager) == ([2], [100, 200])

    await model_manager.publish(older)  # whose own reading of the blocks began before

    assert seen(model_manager) == ([2], [100, 200, 300])
    await model_manager.publish(catalog.grow([400]))  # and this one's later
    assert seen(model_manager)[0] == []


async def test_older_blocks_are_passed_over(model_manager):
    read_at = time.monotonic()
    await model_manager.publish(Catalog().grow([100]))

    model_manager.publish_blocks(relations((1, 2)), read_at)

    assert seen(model_manager) == ([], [100])


async def test_newer_blocks_decide_on_blocks_that_were_notified_but_not_on_deletions(model_manager):
    await model_manager.publish(Catalog().grow([100, 200]))
    model_manager.correct(ChangeEvents(frozenset({(1, 2)}), frozenset({100})))
    model_manager.publish_blocks(relations((1, 3)), time.monotonic())
    assert seen(model_manager) == ([3], [200])

    model_manager.correct(ChangeEvents(frozenset({(1, 2)})))

    assert seen(model_manager) == ([2, 3], [200])


async def test_blocks_that_come_before_the_first_snapshot_are_in_it(model_manager):
    snapshot = Catalog().grow([100])
    assert model_manager.block_age == float("inf")
    model_manager.publish_blocks(relations((1, 2)), time.monotonic())
    assert model_manager.block_age < float("inf")

    await model_manager.publish(snapshot)

    assert seen(model_manager) == ([2], [100])

"""New embedding widths, and a model for them, while a server runs."""

import asyncio
import math

import asyncpg
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from animora_artifact import ArtifactRejected
from animora_server.batching import Batcher, BatchLimits, CostModel
from animora_server.inference.catalog_encoder import CatalogEncoder
from animora_server.inference.device import Device
from animora_server.inference.model_manager import ModelManager
from animora_server.observability.metrics import CatalogMetrics, ScorerMetrics
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.settings import CatalogSettings, DatabaseSettings, ScorerSettings
from animora_server.store import CatalogSync, PostgresStore
from tests.support.artifacts import POSTS, tiny_artifact
from tests.support.until import HANG_TIMEOUT

LIMITS = BatchLimits(max_batch_rows=256)


class Server:
    """Catalog and models of a server, without its network."""

    def __init__(self, url, device, batcher):
        cost = CostModel()
        self.registry = CollectorRegistry()
        self.model_manager = ModelManager(
            ServingStateHolder(math.inf),
            device,
            CatalogEncoder(device, batcher, cost, LIMITS.max_batch_rows),
            max_models=2,
            reconcile=lambda: self.catalog_sync.catch_up(),  # noqa: PLW0108  # made below
        )
        self.catalog_sync = CatalogSync(
            PostgresStore(DatabaseSettings(url=SecretStr(url))),
            CatalogSettings(poll_interval=0.05, reconcile_interval=0.2),
            CatalogMetrics(self.registry),
            self._publish,
            preference=lambda: self.model_manager.width_preference,
        )
        self.active_versions = set()  # at each publication
        self._published = asyncio.Event()

    @property
    def snapshot(self):
        return self._serving_state.snapshot

    @property
    def active(self):
        return self._serving_state.active

    @property
    def _serving_state(self):
        state = self.model_manager.states.latest
        assert state is not None
        return state

    async def until(self, holds):
        async with asyncio.timeout(HANG_TIMEOUT):
            while not holds():
                self._published.clear()
                await self._published.wait()

    async def activate(self, artifact):
        """Retries a refused version, like the model watcher."""
        while True:
            try:
                return await self.model_manager.activate(artifact)
            except ArtifactRejected:
                self._published.clear()
                await asyncio.wait_for(self._published.wait(), HANG_TIMEOUT)

    def images(self):
        """The first dimension of each post's image embedding."""
        index = self.snapshot.index
        images, _ = self.snapshot.embeddings.take(index.values)
        return dict(zip(index.ids.tolist(), images[:, 0].tolist(), strict=True))

    async def _publish(self, snapshot):
        await self.model_manager.publish(snapshot)
        active = self._serving_state.active
        self.active_versions.add(active and active.version)
        self._published.set()


@pytest.fixture
async def database(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("insert into animora_app.users select 1")
    await connection.execute(
        "insert into animora_app.posts (id, author_id, image_embedding, caption_embedding)"
        " select id, 1, '{1, 2, 3}', '{1, 2}' from unnest($1::bigint[]) as id",
        POSTS.tolist(),
    )
    yield connection
    await connection.close()


@pytest.fixture
async def server(postgres_url, database):
    settings = ScorerSettings(device="cpu", max_batch_rows=LIMITS.max_batch_rows)
    metrics = ScorerMetrics(CollectorRegistry())
    async with (
        Device(settings, on_fault=lambda: None) as device,
        Batcher(device.score, LIMITS, CostModel(), metrics) as batcher,
    ):
        yield Server(postgres_url, device, batcher)


async def test_one_post_with_another_embedding_width_does_not_disable_the_model(server, database):
    await database.execute(
        "insert into animora_app.posts (id, author_id, image_embedding)"
        " values (1, 1, '{1}'), (2, 1, '{nan, 1, 1}')"
    )
    async with server.catalog_sync:
        await server.activate(tiny_artifact("v1")[0])
        await database.execute(
            "insert into animora_app.posts (id, author_id, image_embedding) values (3, 1, '{1}')"
        )
        await server.until(lambda: len(server.snapshot) == len(POSTS) + 3)

        assert server.active.version == "v1"
        assert server.images() == {1: 0, 2: 0, 3: 0} | dict.fromkeys(POSTS.tolist(), 1)
        unusable = server.registry.get_sample_value(
            "animora_catalog_unusable_embeddings", {"column": "image"}
        )
        assert unusable == 3


async def test_a_model_for_new_embedding_widths_serves_without_a_restart(server, database):
    async with server.catalog_sync:
        await server.activate(tiny_artifact("v1")[0])
        server.active_versions.clear()
        await database.execute("update animora_app.posts set image_embedding = '{4, 5, 6, 7, 8}'")

        await server.activate(tiny_artifact("v2", image=5)[0])

        assert server.active.version == "v2"
        assert server.active_versions <= {"v1", "v2"}
        assert server.images() == dict.fromkeys(POSTS.tolist(), 4)
        rows = server.snapshot.rows(np.array(POSTS))
        assert server.active.has_features(rows).all()

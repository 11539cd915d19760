"""Blocks are refreshed separately from the rest of the catalog."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings
from animora_server.store import BlockRefresher
from tests.support.until import until


class Published:
    """Records published blocks; their age is set by the test."""

    def __init__(self):
        self.relations = []
        self.age = 0.0

    def publish(self, relations, read_at):
        self.relations.append(relations)

    async def until(self, holds):
        await until(lambda: self.relations and holds(self.relations[-1]))


@pytest.fixture
def published():
    return Published()


def refresher_of(store, published, **options):
    metrics = CatalogMetrics(CollectorRegistry())
    settings = CatalogSettings(**{"poll_interval": 1e6, "max_block_age": 1e6, **options})
    return BlockRefresher(
        store.with_separate_connection(), settings, metrics, lambda: published.age, published.publish
    )


async def test_overdue_blocks_are_read(database, store, published):
    await database.execute("insert into animora_app.block_relations values (1, 2)")
    published.age = float("inf")
    async with refresher_of(store, published, poll_interval=0.01):
        await published.until(lambda relations: relations.members_of(2).tolist() == [1])
        await database.execute("delete from animora_app.block_relations")
        await published.until(lambda relations: relations.members_of(2).tolist() == [])


async def test_blocks_are_read_even_if_other_views_are_unusable(database, store, published):
    await database.execute("insert into animora_app.block_relations values (1, 2)")
    await database.execute("drop view animora.posts, animora.interactions")
    published.age = float("inf")
    async with refresher_of(store, published):
        await published.until(lambda relations: relations.members_of(2).tolist() == [1])


async def test_blocks_are_read_long_before_they_are_too_old(database, store, published):
    published.age = 1.1  # seconds
    async with refresher_of(store, published, max_block_age=2.0):
        await published.until(lambda _: True)


async def test_blocks_that_polls_keep_fresh_are_not_read(database, store, published):
    async with refresher_of(store, published) as refresher:
        await asyncio.sleep(0)
        assert published.relations == []
        refresher.read_soon()
        await published.until(lambda _: True)


async def test_equal_blocks_are_the_same_object(database, store, published):
    await database.execute("insert into animora_app.block_relations values (1, 2)")
    refresher = refresher_of(store, published)
    for _ in range(2):
        await refresher.refresh()
    await refresher.__aexit__(None, None, None)

    first, second = published.relations
    assert first is second

"""One database as read by the server's load, its polls and the trainer."""

import time
from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pytest
from pydantic import SecretStr

from animora_server.catalog import Catalog
from animora_server.errors import StoreError
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import PostgresStore
from animora_server.store.refresh import Refresh
from animora_training.data.database import Database, connect
from animora_training.data.folder import describe
from animora_training.data.reading import read_dataset
from animora_training.errors import DatabaseError

NO_IDS = np.empty(0, np.int64)


class Programs:
    """The server and the trainer on one database.

    Attributes:
        catalog: What the server has.
        left_out: What the server has left out at its last load.
    """

    def __init__(self, url, folder):
        self.catalog = Catalog.empty(None)
        self.left_out: Mapping[tuple[str, str], int] = {}
        self._url = url
        self._folder = folder
        self._store = PostgresStore(DatabaseSettings(url=SecretStr(url)))
        self._read_at: datetime | None = None

    async def load(self):
        """The catalog after the server's load."""
        self.catalog = Catalog.empty(None)
        return await self._refresh(lambda refresh: refresh.reconcile())

    async def poll(self, deleted=NO_IDS):
        """The catalog after a poll."""
        assert self._read_at is not None
        return await self._refresh(lambda refresh: refresh.poll(self._read_at, deleted))

    async def _refresh(self, how):
        async with self._store.reading() as reading:
            refresh = Refresh(reading, self.catalog, CatalogSettings(), time.monotonic())
            self.catalog = await how(refresh)
            self.left_out = refresh.left_out or self.left_out
            self._read_at = reading.now
        return server_content(self.catalog.snapshot)

    async def train(self):
        """The trainer's data set."""
        async with connect(Database(self._url)) as connection:
            return trainer_content(await read_dataset(connection, self._folder, lambda *_: None))

    @property
    def described(self):
        """The trainer's log of its reading."""
        return describe(self._folder)

    async def refusals(self):
        """The errors with which server and trainer refuse the views."""
        with pytest.raises(StoreError) as server:
            await self.load()
        with pytest.raises(DatabaseError) as trainer:
            await self.train()
        return str(server.value), str(trainer.value)

    def close(self):
        self._store.close()


def server_content(snapshot):
    """Posts, how many interactions each has, and blocks."""
    posts = {}
    for post_id, row in zip(snapshot.index.ids.tolist(), snapshot.index.values.tolist(), strict=True):
        image, caption = snapshot.embeddings.read(row, row + 1)
        posts[post_id] = (
            int(snapshot.author_ids[row]), float(snapshot.created_at[row]), bool(snapshot.deleted[row]),
            image[0][image[0] != 0].tolist(), caption[0][caption[0] != 0].tolist(),
            int(snapshot.interactions[row]),
        )  # fmt: skip
    related = snapshot.relations.related
    return posts, {user: related.members_of(user).tolist() for user in related.keys.tolist()}


def trainer_content(data):
    """The same as server_content."""
    counts = np.bincount(data.events.posts, minlength=len(data.posts.ids))
    posts = {
        post_id: (
            int(data.posts.authors[at]), float(data.posts.created[at]), bool(data.posts.deleted[at]),
            [value for value in data.posts.image[at].tolist() if value],
            [value for value in data.posts.caption[at].tolist() if value],
            int(counts[at]),
        )
        for at, post_id in enumerate(data.posts.ids.tolist())
    }  # fmt: skip
    related: dict[int, list[int]] = {}
    for user, other in data.blocks.tolist():
        related.setdefault(user, []).append(other)
    return posts, related

"""What several commands begin with: the data set of a database, the version of a store."""

import asyncio
from pathlib import Path

from animora_artifact import Artifact, VersionNotFound
from animora_training.commands.console import Show
from animora_training.commands.versions import missing_version_named, open_model_store
from animora_training.data.arrays import temporary_folder
from animora_training.data.database import connect
from animora_training.data.dataset import Dataset
from animora_training.data.reading import read_dataset
from animora_training.errors import NothingToLearn
from animora_training.pipeline.verification import verify


def read_database(database_url: str, show: Show) -> Dataset:
    """The four views, in files that last as long as somebody has their arrays; raises as read_into does."""
    # The arrays stay mapped, and their files on the disk, for as long as somebody has them.
    with temporary_folder("animora-data-") as folder:
        return read_into(database_url, folder, show)


def read_into(database_url: str, folder: Path, show: Show) -> Dataset:
    """The four views, in files of a folder.

    Raises:
        DatabaseError: The database cannot be reached, or is not as the views promise.
        NothingToLearn: It has no posts.
    """

    async def read() -> Dataset:
        async with connect(database_url) as connection:
            return await read_dataset(connection, folder, lambda view, rows: show(view, rows, None))

    dataset = asyncio.run(read())
    if not len(dataset.posts.ids):
        raise NothingToLearn("animora.posts shows no posts: is --database-url the right database?")
    return dataset


def read_version(store: str, version: str) -> Artifact:
    """A published version, or the active one, replayed on its golden rows.

    Raises:
        VersionNotFound: There is none of this name, or none is active.
        ArtifactRejected: It is not what was published.
    """
    model_store = open_model_store(store)
    chosen = version or model_store.active()
    if chosen is None:
        raise VersionNotFound(
            "the store has no active version: name one, or activate one with `animora-train activate`"
        )
    with missing_version_named(store, chosen):
        artifact = model_store.read(chosen)
    verify(artifact)
    return artifact

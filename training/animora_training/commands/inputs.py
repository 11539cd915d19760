"""Reads a command's inputs: the data set of a database, a version of a model store."""

import asyncio
from pathlib import Path

from animora_artifact import Artifact, VersionNotFound
from animora_artifact.verification import verify
from animora_training.commands.console import ShowProgress
from animora_training.commands.versions import explain_missing_version, open_model_store
from animora_training.data.arrays import temporary_folder
from animora_training.data.database import Database, connect
from animora_training.data.dataset import Dataset
from animora_training.data.reading import read_dataset
from animora_training.errors import NothingToLearn


def read_database(database: Database, show: ShowProgress) -> Dataset:
    """Reads the four views into memory-mapped temporary files. Raises as `read_into` does."""
    # Arrays stay mapped after their files are unlinked; the disk space is freed with the last array.
    with temporary_folder("animora-data-") as folder:
        return read_into(database, folder, show)


def read_into(database: Database, folder: Path, show: ShowProgress) -> Dataset:
    """Reads the four views into memory-mapped files of a folder.

    Raises:
        DatabaseError: The database cannot be reached, or breaks the contract of the views.
        NothingToLearn: The database has no posts.
    """

    async def read() -> Dataset:
        async with connect(database) as connection:
            return await read_dataset(connection, folder, lambda view, rows: show(view, rows, None))

    dataset = asyncio.run(read())
    if not len(dataset.posts.ids):
        raise NothingToLearn("animora.posts shows no posts: is --database-url the right database?")
    return dataset


def read_version(store: str, version: str) -> Artifact:
    """Reads a published version, the active one by default, and replays its golden rows.

    Raises:
        VersionNotFound: The version does not exist, or no version is active.
        ArtifactRejected: The version fails a check.
    """
    model_store = open_model_store(store)
    chosen = version or model_store.active()
    if chosen is None:
        raise VersionNotFound(
            "the store has no active version: name one, or activate one with `animora-train activate`"
        )
    with explain_missing_version(store, chosen):
        artifact = model_store.read(chosen)
    verify(artifact)
    return artifact

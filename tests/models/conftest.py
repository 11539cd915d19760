"""A model store with two versions."""

import pytest

from animora_artifact.folder_store import FolderStore
from tests.support.artifacts import tiny_artifact


@pytest.fixture
def store(tmp_path) -> FolderStore:
    store = FolderStore(tmp_path)
    for version in ("v1", "v2"):
        store.publish(tiny_artifact(version)[0])
    return store

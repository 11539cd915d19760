"""A feed, a model store and a Redis, and the options of workers that use them."""

from pathlib import Path

import pytest

from animora_artifact import FolderStore
from tests.support.artifacts import active_store
from tests.support.feed import Feed


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A model store with version v1 active."""
    return active_store(tmp_path / "models")


@pytest.fixture
def options(feed: Feed, redis_url: str, store: FolderStore, tmp_path: Path) -> dict[str, str]:
    """Options with every part enabled, on free ports, named as variables without ANIMORA_."""
    return {
        "DATABASE_URL": feed.url,
        "CACHE_URL": redis_url,
        "CACHE_TIMEOUT": "10",  # a look-up that comes late is a hit all the same
        "CATALOG_POLL_INTERVAL": "0.5",
        "MODELS_STORE": str(tmp_path / "models"),
        "MODELS_READY_REQUIRES_MODEL": "true",
        "MODELS_PREFLIGHT": "false",  # which tests/inference/test_preflight.py has
        "GRPC_PORT": "0",
        "GRPC_READY_DELAY": "0",
        "GRPC_DRAIN_DELAY": "0.2",
        "HTTP_PORT": "0",
        "SCORER_DEVICE": "cpu",
    }

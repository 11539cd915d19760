"""Fixtures for servers whose files are outside the given directory."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def forgotten_homes():
    """Collects homes outside the directories that a test gave its servers, and removes them after it."""
    homes: list[Path] = []
    yield homes
    for home in homes:
        assert home.name.startswith("animora-"), home  # or it is not a home, and not ours to remove
        shutil.rmtree(home)

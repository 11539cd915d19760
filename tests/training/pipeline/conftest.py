"""A database with a feed, for fits in processes of their own."""

import os

import pytest
from typer.testing import CliRunner

from animora_training.commands.cli import app


@pytest.fixture
def environment(postgres_url):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIMORA_")}
    environment = {**inherited, "ANIMORA_DATABASE_URL": postgres_url, "OMP_NUM_THREADS": "1"}
    imported = CliRunner().invoke(app, ["import", "sample", "--size", "small"], env=environment)
    assert imported.exit_code == 0, imported.output
    return environment

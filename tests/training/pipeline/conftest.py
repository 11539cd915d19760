"""A database with a feed, for fits in processes of their own."""

import pytest
from typer.testing import CliRunner

from animora_training.commands.cli import app
from tests.support.processes import animora_environment


@pytest.fixture
def environment(postgres_url):
    environment = animora_environment(DATABASE_URL=postgres_url) | {"OMP_NUM_THREADS": "1"}
    # The end of the feed decides which interactions are held out, and so what a fit is measured to be worth.
    words = ["import", "sample", "--size", "small", "--now", "2026-11-01"]
    imported = CliRunner().invoke(app, words, env=environment)
    assert imported.exit_code == 0, imported.output
    return environment

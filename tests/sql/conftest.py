"""A connection to the test's own database."""

import asyncpg
import pytest


@pytest.fixture
async def database(postgres_url):
    """A superuser's connection to a database with Animora's tables."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def empty_database(empty_postgres_url):
    """A superuser's connection to a database with nothing in it."""
    connection = await asyncpg.connect(empty_postgres_url)
    # The superuser is called as the views' schema, which would come first in its path.
    await connection.execute("set search_path = public")
    yield connection
    await connection.close()

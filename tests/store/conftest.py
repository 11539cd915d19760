import asyncpg
import pytest
from pydantic import SecretStr

from animora_server.settings import DatabaseSettings
from animora_server.store import PostgresStore


@pytest.fixture
async def database(postgres_url):
    """A connection of the application, to a database with twenty users."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("insert into animora_app.users select generate_series(1, 20)")
    yield connection
    await connection.close()


@pytest.fixture
def store(postgres_url):
    store = PostgresStore(DatabaseSettings(url=SecretStr(postgres_url), timeout=10, command_timeout=10))
    yield store
    store.close()

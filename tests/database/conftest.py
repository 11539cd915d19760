"""A database, and the server and the trainer that read it."""

import asyncpg
import pytest

from tests.database.programs import Programs


@pytest.fixture
async def database(postgres_url):
    """A superuser's connection."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("insert into animora_app.users select generate_series(1, 9)")
    yield connection
    await connection.close()


@pytest.fixture
def programs_of(postgres_url, tmp_path):
    """The programs as they connect in a role."""
    made = []

    def make(role):
        made.append(Programs(postgres_url.replace("animora@", f"{role}@"), tmp_path / role))
        return made[-1]

    yield make
    for programs in made:
        programs.close()


@pytest.fixture
def programs(programs_of):
    """The programs as they connect in the superuser's role."""
    return programs_of("animora")

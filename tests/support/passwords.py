"""Makes an embedded PostgreSQL require passwords of all roles but its superuser."""

import asyncio
from pathlib import Path

import asyncpg

from animora_demo.embedded import EmbeddedPostgres
from tests.support.until import until

RULES = "local all animora trust\nlocal all all scram-sha-256\n"


async def require_password(postgres: EmbeddedPostgres, role: str, password: str) -> str:
    """Gives a role a password; the role is created if there is none. Returns the DSN without the password."""
    url = postgres.url.replace("postgresql://animora@", f"postgresql://{role}@")
    connection = await asyncpg.connect(postgres.url)
    try:
        if not await connection.fetchval("select 1 from pg_roles where rolname = $1", role):
            await connection.execute(f"create role {role} login")
        await connection.execute(f"alter role {role} password '{password}'")
        rules = Path(await connection.fetchval("show hba_file"))
        await asyncio.to_thread(rules.write_text, RULES)
        await connection.execute("select pg_reload_conf()")
    finally:
        await connection.close()
    await until(lambda: _is_refused(url))  # PostgreSQL reads the rules a moment later
    return url


async def _is_refused(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, password="none")
    except asyncpg.InvalidPasswordError:
        return True
    await connection.close()
    return False

"""How the server and the trainer reach the application's PostgreSQL.

`dsn` reads connection strings and imports nothing but the standard library; `connecting` opens connections
through asyncpg.
"""

from animora_database.dsn import ConnectionOptions, InvalidDsn, parse_dsn

__all__ = ["ConnectionOptions", "InvalidDsn", "parse_dsn"]

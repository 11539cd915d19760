"""How the server and the trainer reach and read the application's PostgreSQL.

`dsn` reads connection strings and `connecting` opens connections, through asyncpg, which it alone imports.
`views` defines the four views, `checking` compares them with what a database has, `session` begins
transactions in which no setting changes a result, `row_security` finds rows that are hidden, and
`embeddings` decodes embeddings.
"""

from animora_database.dsn import ConnectionOptions, parse_dsn
from animora_database.errors import InvalidDsn

__all__ = ["ConnectionOptions", "InvalidDsn", "parse_dsn"]

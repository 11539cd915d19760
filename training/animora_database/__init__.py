"""The contract of the four views, and connections to the application's PostgreSQL, for server and trainer.

`dsn` parses connection strings, `connecting` opens connections with asyncpg. `views` defines the four views
and queries of their columns, `reading` begins read-only transactions and checks the views, `copying` streams
the rows of a query, `copy_format` and `embeddings` decode them to arrays.
"""

from animora_database.dsn import ConnectionOptions, parse_dsn
from animora_database.errors import InvalidDsn

__all__ = ["ConnectionOptions", "InvalidDsn", "parse_dsn"]

"""The contract of the four views, and connections to the application's PostgreSQL, for server and trainer.

`dsn` parses connection strings, `connecting` opens connections with asyncpg. `views` defines the four views
and queries of their columns, `checking` checks a database against them, `session` begins read-only
transactions with fixed settings, `row_security` finds tables that hide rows. `copying` streams the rows of a
query, `copy_format` and `embeddings` decode them to arrays.
"""

from animora_database.dsn import ConnectionOptions, parse_dsn
from animora_database.errors import InvalidDsn

__all__ = ["ConnectionOptions", "InvalidDsn", "parse_dsn"]

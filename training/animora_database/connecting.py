"""Connections to PostgreSQL through asyncpg, by libpq's connection strings."""

import ssl
from typing import Any

import asyncpg

from animora_database.dsn import ConnectionOptions

# After these the next host is tried; after others, such as a wrong password, it is not, as in libpq.
NEXT_HOST = (
    OSError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
)


async def open_connection(
    options: ConnectionOptions, timeout: float, application_name: str, **arguments: Any
) -> asyncpg.Connection:
    """Opens a connection to the first host that will do.

    Args:
        options: What the connection string asks for.
        timeout: Seconds for each host, unless the connection string says how many.
        application_name: How PostgreSQL shows the session, unless the connection string says how.
        arguments: Further ones of asyncpg.connect.

    Raises:
        Exception: Whatever asyncpg, TLS or the network raised for the last host.
    """
    settings = {"application_name": application_name, **options.server_settings}
    if options.trusts_system_roots:
        arguments["ssl"] = _system_roots(options)
    failure: Exception | None = None
    for attempt in options.attempts():
        try:
            return await asyncpg.connect(
                **attempt, **arguments, server_settings=settings, timeout=options.connect_timeout or timeout
            )
        except NEXT_HOST as error:
            failure = error
    assert failure is not None  # there is at least one attempt
    raise failure


def _system_roots(options: ConnectionOptions) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificate := options.tls.get("sslcert"):
        context.load_cert_chain(certificate, options.tls.get("sslkey"), options.tls.get("sslpassword", ""))
    return context

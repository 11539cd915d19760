"""Opens connections to PostgreSQL with asyncpg from parsed connection strings."""

import asyncio
import ssl
from typing import Any

import asyncpg

from animora_database.dsn import ConnectionOptions

# Errors of asyncpg, TLS, the network and the operating system. While it connects, asyncpg also raises
# ValueError, for example for text that is not UTF-8 or a certificate that cannot be verified.
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
)
# Errors after which the next host is tried, as in libpq; others, such as a wrong password, are final.
NEXT_HOST = (
    OSError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
)


async def open_connection(
    options: ConnectionOptions, timeout: float, application_name: str, **arguments: Any
) -> asyncpg.Connection:
    """Opens a connection to the first host that accepts it.

    The password file, if any, is read for each connection, and again at once if PostgreSQL refuses the
    password: the file may have been replaced in between.

    Args:
        options: The parsed connection string.
        timeout: Connect timeout in seconds for each host; the connection string overrides it.
        application_name: Name of the session in PostgreSQL; the connection string overrides it.
        arguments: Further arguments of asyncpg.connect.

    Raises:
        Exception: The error of asyncpg, TLS or the network for the last host.
    """
    arguments["server_settings"] = {"application_name": application_name, **options.server_settings}
    arguments["timeout"] = options.connect_timeout or timeout
    if options.trusts_system_roots:
        arguments["ssl"] = _system_roots(options)
    if options.password_file is None:
        return await _connect(options, arguments)
    password = await asyncio.to_thread(options.password_file.current)
    try:
        return await _connect(options, {**arguments, "password": password})
    except asyncpg.PostgresError:  # poolers refuse a password with codes of their own
        newer = await asyncio.to_thread(options.password_file.current)
        if newer == password:
            raise
        return await _connect(options, {**arguments, "password": newer})


async def _connect(options: ConnectionOptions, arguments: dict[str, Any]) -> asyncpg.Connection:
    failure: Exception | None = None
    for attempt in options.attempts():
        try:
            return await asyncpg.connect(**attempt, **arguments)
        except NEXT_HOST as error:
            failure = error
    assert failure is not None  # there is at least one attempt
    raise failure


def _system_roots(options: ConnectionOptions) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificate := options.tls.get("sslcert"):
        context.load_cert_chain(certificate, options.tls.get("sslkey"), options.tls.get("sslpassword", ""))
    return context

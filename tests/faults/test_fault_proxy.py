"""The fault proxy: what each fault does to a client and a server that echoes."""

import asyncio
from contextlib import suppress

import pytest

from tests.support.fault_proxy import FaultProxy, black_hole, delay, flip, half_close, reset, truncate
from tests.support.until import HANG_TIMEOUT, until


@pytest.fixture
async def received():
    """Everything that the echoing server has received."""
    return bytearray()


@pytest.fixture
async def proxy(received):
    open_connections = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        with suppress(OSError):
            while chunk := await reader.read(100):
                received.extend(chunk)
                writer.write(chunk)
            writer.close()
            await writer.wait_closed()
        open_connections -= 1

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with asyncio.timeout(HANG_TIMEOUT), FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    await until(lambda: not open_connections)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def streams(proxy):
    """A connection through the proxy, over which a message has come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    yield reader, writer
    await close(writer)


async def test_without_a_fault_replies_are_forwarded_and_the_end_too(proxy, streams):
    reader, writer = streams
    writer.write_eof()
    assert await reader.read() == b""
    assert proxy.connections == 1


async def test_a_delayed_reply_arrives_late(proxy, streams):
    reader, writer = streams
    loop = asyncio.get_running_loop()
    proxy.fault, sent = delay(0.1), loop.time()
    writer.write(b"abcd")
    assert await reader.readexactly(4) == b"abcd"
    assert loop.time() - sent >= 0.1


async def test_a_connection_that_met_a_black_hole_stays_silent_and_a_new_one_works(proxy, streams):
    _, writer = streams
    swallowed = asyncio.Event()

    async def fault(chunk, connection):
        swallowed.set()
        await black_hole(chunk, connection)

    proxy.fault = fault
    writer.write(b"abcd")
    await swallowed.wait()
    proxy.fault = None
    await assert_only_a_new_connection_works(proxy, streams)


async def test_connections_that_fell_silent_stay_so_and_a_new_one_works(proxy, streams):
    proxy.fall_silent()
    await assert_only_a_new_connection_works(proxy, streams)


async def assert_only_a_new_connection_works(proxy, streams):
    reader, writer = streams
    writer.write(b"more")
    reply = asyncio.create_task(reader.read(4))
    another, to_server = await asyncio.open_connection("127.0.0.1", proxy.port)
    to_server.write(b"again")
    assert await another.readexactly(5) == b"again"
    assert not reply.done()
    reply.cancel()
    await close(to_server)


async def test_a_reset_connection_is_an_error(proxy, streams):
    reader, writer = streams
    proxy.fault = reset
    writer.write(b"abcd")
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_a_truncated_reply_ends_in_its_middle(proxy, streams):
    reader, writer = streams
    proxy.fault = truncate
    writer.write(b"abcd")
    assert await reader.read() == b"ab"


async def test_a_flipped_reply_differs_in_one_bit(proxy, streams):
    reader, writer = streams
    proxy.fault = flip
    writer.write(b"abcd")
    assert await reader.readexactly(4) == b"abbd"


async def test_over_a_half_closed_connection_requests_still_arrive(proxy, streams, received):
    reader, writer = streams
    proxy.fault = half_close
    writer.write(b"abcd")
    assert await reader.read() == b"abcd"
    writer.write(b"more")
    await until(lambda: received.endswith(b"more"))


async def test_a_server_that_is_away_closes_the_connection(proxy):
    proxy.target = 1
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await reader.read() == b""
    await close(writer)

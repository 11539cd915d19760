"""Connections to one port, each with the process that it leads to."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from tests.support.feed import TRAINED_USERS
from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

# Otherwise all channels of a process to one address share a connection.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
# A call waits for a connection: those that fail are those that a process had. Otherwise, where a port that is
# going refuses a connection, all calls fail at once until the next is tried.
WAITING = {"methodConfig": [{"name": [{}], "waitForReady": True}]}
OPTIONS = (*OWN_CONNECTION, ("grpc.service_config", json.dumps(WAITING)))


@dataclass(frozen=True, slots=True)
class Caller:
    """A connection of its own.

    Attributes:
        stub: The plain generated stub over it, without retries.
        process: The process that answers on it: the part that its request ids have in common.
    """

    stub: "RankingServiceAsyncStub"
    process: str


@asynccontextmanager
async def callers(port: int, processes: int) -> AsyncIterator[list[Caller]]:
    """Opens at least eight connections, and more until they lead to `processes` different processes."""
    async with AsyncExitStack() as stack:
        found: list[Caller] = []
        while len(found) < 8 or len({caller.process for caller in found}) < processes:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
            stub = RankingServiceStub(await stack.enter_async_context(channel))
            call = stub.Rank(pb.RankRequest(user_id=TRAINED_USERS[0], post_ids=[100]), timeout=HANG_TIMEOUT)
            await call
            request_id = str(dict(await call.trailing_metadata() or ())["x-request-id"])
            found.append(Caller(stub, request_id.partition("-")[0]))
        yield found

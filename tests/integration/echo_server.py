"""A process with the server's own transport that gives every request its posts back: `echo_server PORT`.

It starts sooner than a whole server, says `serving` on standard output, and drains on
SIGTERM.
"""

import asyncio
import sys

from prometheus_client import CollectorRegistry

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.metrics import Metrics
from animora_server.program import stop_signal
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.calls import Call, CallHandler
from animora_server.service.gate import Gate
from animora_server.settings import GrpcSettings


async def echo(data: bytes, call: Call) -> bytes:
    """The posts in the order of the request."""
    posts = pb.RankRequest.FromString(data).post_ids
    await asyncio.sleep(0.001)  # so that a drain finds calls in flight
    return pb.RankResponse(post_ids=posts, scores=[0.5] * len(posts)).SerializeToString()


async def serve(port: int) -> None:
    """Serves until told to stop."""
    # With several workers the port may be held by the test as well, so that nobody else takes it meanwhile.
    settings = GrpcSettings(port=port, workers=2, drain_delay=0.1, drain_grace=30)
    handler = CallHandler(Gate(4096, 1_000_000), Metrics(CollectorRegistry(), SERVICE_NAME, METHODS).calls, 1)
    stopping = stop_signal()
    async with GrpcServer(settings, handler, dict.fromkeys(METHODS, echo)) as server:
        await server.set_serving(True)
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        await stopping.wait()
        await server.drain()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

"""The floor: a grpc.aio server that parses a RankRequest and answers at once, with nothing in between.

It has the event loop and the server options of the real one. Its reply is as large as the real one's:
the first `limit` candidates with fixed scores.
"""

import asyncio
import signal
import sys

import grpc
import uvloop

from animora.ranking.v1 import ranking_pb2 as pb
from animora_server.service import SERVICE_NAME
from animora_server.service.server import channel_options
from animora_server.settings import GrpcSettings

SCORES = [1 - rank / 10_000 for rank in range(10_000)]


async def rank(request: pb.RankRequest, _: object) -> pb.RankResponse:
    """Answers Rank."""
    post_ids = request.post_ids[: request.limit or None]
    return pb.RankResponse(
        post_ids=post_ids,
        scores=SCORES[: len(post_ids)],
        ranker=pb.RANKER_NEUCF,
        model_version="20260101T000000Z-000000",
        cache=pb.CACHE_STATUS_BYPASS,
        dropped=pb.DroppedCandidates(),
    )


async def serve() -> None:
    """Serves until SIGTERM; prints its port."""
    server = grpc.aio.server(options=channel_options(GrpcSettings()))
    handler = grpc.unary_unary_rpc_method_handler(
        rank,
        request_deserializer=pb.RankRequest.FromString,
        response_serializer=pb.RankResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, {"Rank": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())

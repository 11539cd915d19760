"""The baseline: a grpc.aio server that parses a request and answers at once.

It has the event loop and the server options of the real one. Its replies have the size of the real ones: the
first `limit` candidates with fixed scores, or a page with a token.
"""

import asyncio
import signal
import sys
from typing import Any

import grpc
import uvloop

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.service import SERVICE_NAME
from animora_server.service.server import channel_options
from animora_server.settings import GrpcSettings

VERSION = "20260101T000000Z-000000"
TOKEN = "A" * 56
SCORES = [1 - rank / 10_000 for rank in range(10_000)]


async def rank(request: pb.RankRequest, _: object) -> pb.RankResponse:
    """Answers Rank."""
    post_ids = request.post_ids[: request.limit or None]
    return pb.RankResponse(
        post_ids=post_ids,
        scores=SCORES[: len(post_ids)],
        ranker=pb.RANKER_NEUCF,
        model_version=VERSION,
        cache=pb.CACHE_STATUS_BYPASS,
        dropped=pb.DroppedCandidates(),
    )


async def get_timeline(request: pb.GetTimelineRequest, _: object) -> pb.GetTimelineResponse:
    """Answers GetTimeline."""
    size = request.page_size or 20
    return pb.GetTimelineResponse(
        post_ids=range(1, size + 1),
        scores=SCORES[:size],
        next_page_token=TOKEN,
        ranker=pb.RANKER_NEUCF,
        model_version=VERSION,
        cache=pb.CACHE_STATUS_HIT,
    )


async def serve() -> None:
    """Serves until SIGTERM; prints its port."""
    server = grpc.aio.server(options=channel_options(GrpcSettings()))
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Rank": grpc.unary_unary_rpc_method_handler(
            rank,
            request_deserializer=pb.RankRequest.FromString,
            response_serializer=pb.RankResponse.SerializeToString,
        ),
        "GetTimeline": grpc.unary_unary_rpc_method_handler(
            get_timeline,
            request_deserializer=pb.GetTimelineRequest.FromString,
            response_serializer=pb.GetTimelineResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
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

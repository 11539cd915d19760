"""Ray Serve: its HAProxy ingress hands requests to replicas, which batch and rank them."""

import threading
from pathlib import Path

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from tests.benchmarks.peers.arguments import Arguments
from tests.benchmarks.peers.ranking import PostRanker, as_bytes, from_bytes


class Ranker:
    """Ranks a batch in one pass."""

    def __init__(self, folder: Path) -> None:
        self._ranker = PostRanker(folder)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def rank(self, bodies: list[bytes]) -> list[bytes]:
        """A reply to each body."""
        requests = from_bytes(b"".join(bodies))
        return as_bytes(*self._ranker.rank(requests[:, 0], requests[:, 1:]))

    async def __call__(self, request: Request) -> Response:
        """Bytes in, bytes out."""
        return Response(await self.rank(await request.body()), media_type="application/octet-stream")


def main(arguments: Arguments) -> None:
    """Serves until it is ended."""
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
    deployment = serve.deployment(num_replicas=arguments.workers, max_ongoing_requests=1000)(Ranker)
    serve.run(deployment.bind(arguments.folder))
    threading.Event().wait()


if __name__ == "__main__":
    main(Arguments.parse())

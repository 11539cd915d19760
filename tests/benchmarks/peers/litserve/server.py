"""LitServe: FastAPI processes hand requests over ZeroMQ to processes that batch and rank them."""

import litserve
import numpy as np
from starlette.responses import Response

from tests.benchmarks.peers.arguments import Arguments
from tests.benchmarks.peers.ranking import IntArray, PostRanker, as_bytes


class Ranker(litserve.LitAPI):
    """Ranks a batch in one pass."""

    def setup(self, device: str) -> None:
        """Reads the artifact."""
        self._ranker = PostRanker(Arguments.parse().folder)

    def decode_request(self, request) -> IntArray:  # with a type, FastAPI would validate it: that costs more
        """The user and the candidates, int64 (1 + k)."""
        return np.array([request["user"], *request["posts"]], np.int64)

    def predict(self, x: IntArray) -> list[bytes]:
        """A reply for each row."""
        return as_bytes(*self._ranker.rank(x[:, 0], x[:, 1:]))

    def encode_response(self, output: bytes) -> Response:
        """Passes the encoded reply on."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    arguments = Arguments.parse()
    server = litserve.LitServer(
        Ranker(max_batch_size=32, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=arguments.workers,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )

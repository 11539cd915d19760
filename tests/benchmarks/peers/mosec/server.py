"""mosec: a front in Rust collects requests, and Python processes rank what it has collected.

A body is, for each of its users, the user and the candidates as int64; a reply, for each, the best posts as
int64 and their scores as float32. Bodies with many users come in by a route of their own, with smaller
batches and as many processes.
"""

from collections.abc import Sequence

import numpy as np
from mosec import Runtime, Server, Worker

from tests.benchmarks.peers.arguments import Arguments
from tests.benchmarks.peers.ranking import IntArray, PostRanker, as_bytes, from_bytes

WAIT_MS = 1


class Ranker(Worker):
    """Ranks what was collected in one pass."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._ranker = PostRanker(Arguments.parse().folder)

    def deserialize(self, data: bytes) -> IntArray:
        """The users of a body and their candidates, int64 (n, 1 + k)."""
        return from_bytes(data)

    def forward(self, data: Sequence[IntArray]) -> list[bytes]:
        """A reply to each body."""
        requests = np.concatenate(data)
        ends = np.cumsum([len(one) for one in data])
        replies = as_bytes(*self._ranker.rank(requests[:, 0], requests[:, 1:]))
        return [b"".join(replies[end - len(one) : end]) for one, end in zip(data, ends, strict=True)]

    def serialize(self, data: bytes) -> bytes:
        """Passes the encoded reply on."""
        return data


if __name__ == "__main__":
    workers = Arguments.parse().workers
    server = Server()
    server.register_runtime(
        {
            "/one": [Runtime(Ranker, num=workers, max_batch_size=32, max_wait_time=WAIT_MS)],
            "/many": [Runtime(Ranker, num=workers, max_batch_size=4, max_wait_time=WAIT_MS)],
        }
    )
    server.run()

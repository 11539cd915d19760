"""Builds of the server that are broken on purpose: the soak must notice."""

import sys
import time
from itertools import count

from animora_server.__main__ import main
from animora_server.errors import TooManyRequests
from animora_server.service import ranking_service

LEAKED_BYTES = 30 << 20  # a second
LOST_EVERY = 50  # calls

kept = bytearray()
began: list[float] = []
calls = count(1)
rank = ranking_service.RankingService.rank


async def leaking(self, data, call):
    """Keeps more memory with time, whatever the rate of calls."""
    began.append(time.monotonic())  # the first call counts
    missing = int(LEAKED_BYTES * (began[-1] - began[0])) - len(kept)
    del began[1:]
    kept.extend(b"x" * missing)
    return await rank(self, data, call)


async def losing(self, data, call):
    """Refuses a call now and then."""
    if next(calls) % LOST_EVERY == 0:
        raise TooManyRequests(0.1)
    return await rank(self, data, call)


if __name__ == "__main__":
    ranking_service.RankingService.rank = {"leaking": leaking, "losing": losing}[sys.argv.pop(1)]  # type: ignore[method-assign]
    main()

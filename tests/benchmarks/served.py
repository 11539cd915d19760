"""Held-out pairs ranked by a running server."""

from dataclasses import dataclass

import numpy as np
from rich.progress import track

from animora_client import AsyncRankingClient, CachePolicy, Ranker, Ranking, RankRequest
from animora_training.data.dataset import BoolArray, IntArray
from animora_training.feeds.ncf_format import TestPairs

USERS_AT_ONCE, CANDIDATES_AT_ONCE = 100, 50_000
TRIES = 3


@dataclass(frozen=True, slots=True)
class ServedRanks:
    """Where the server puts each pair's held-out item.

    Attributes:
        ranks: int64 (m), 0 for the best.
        personal: bool (m), for whom the model ranked; the heuristic did for users whom it does not know.
    """

    ranks: IntArray
    personal: BoolArray


async def ranks_through_server(client: AsyncRankingClient, pairs: TestPairs) -> ServedRanks:
    """Has the server rank every pair's candidates, as many users in a call as a call may have.

    Raises:
        RuntimeError: An answer is not what was asked for, or does not have the held-out item.
    """
    requests = [
        RankRequest(int(user), items[present].tolist(), cache_policy=CachePolicy.BYPASS)
        for user, items, present in zip(pairs.users, pairs.candidates, pairs.present, strict=True)
    ]
    step = max(1, min(USERS_AT_ONCE, CANDIDATES_AT_ONCE // pairs.candidates.shape[1]))
    ranks, personal = [], []
    for start in track(range(0, len(requests), step), "ranking through the server"):
        some = requests[start : start + step]
        for request, answer in zip(some, await _answers(client, some), strict=True):
            ranks.append(answer.post_ids.index(_held_out(request)))
            personal.append(answer.ranker == Ranker.NEUCF)
    return ServedRanks(np.array(ranks, np.int64), np.array(personal, np.bool_))


async def _answers(client: AsyncRankingClient, requests: list[RankRequest]) -> list[Ranking]:
    """The answers that were meant: on a busy machine the heuristic may stand in for the model, so ask again.

    Raises:
        RuntimeError: It stays so.
    """
    for _ in range(TRIES):
        answers = [
            answer
            for request, answer in zip(requests, await client.batch_rank(requests, timeout=60), strict=True)
            if isinstance(answer, Ranking)
            and not answer.degraded_reason
            and _held_out(request) in answer.post_ids
        ]
        if len(answers) == len(requests):
            return answers
    missing, first, last = len(requests) - len(answers), requests[0].user_id, requests[-1].user_id
    raise RuntimeError(f"{missing} of the users {first} to {last} did not get what was asked for")


def _held_out(request: RankRequest) -> int:
    return next(iter(request.post_ids))

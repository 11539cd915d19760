"""Checks replies against the contract of their calls."""

from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from animora_client.bench.traffic import Call, IntArray, RankCall, TimelineCall
from animora_client.status import read_status
from animora_proto.ranking.v1 import ranking_pb2

OK = "OK"

Answer = ranking_pb2.RankResponse | ranking_pb2.GetTimelineResponse


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a call.

    Attributes:
        outcome: OK, or the first problem: the name of a status code or `wrong reply: ...`.
        rankings: The correct responses.
    """

    outcome: str
    rankings: tuple[Answer, ...] = ()


def check_reply(call: Call, reply: bytes) -> Verdict:
    """Parses and checks the reply to a call."""
    return _check_page(call, reply) if isinstance(call, TimelineCall) else _check_rankings(call, reply)


def _check_page(call: TimelineCall, reply: bytes) -> Verdict:
    try:
        page = ranking_pb2.GetTimelineResponse.FromString(reply)
    except DecodeError:
        return Verdict("wrong reply: not a message")
    wrong = find_page_problem(page, call.page_size)
    return Verdict(OK, (page,)) if wrong is None else Verdict(f"wrong reply: {wrong}")


def _check_rankings(call: RankCall, reply: bytes) -> Verdict:
    try:
        results = _results(call, reply)
    except DecodeError:
        return Verdict("wrong reply: not a message")
    if len(results) != len(call.candidates):
        return Verdict("wrong reply: too few or too many results")
    problems = [_problem(*pair, call.limit) for pair in zip(results, call.candidates, strict=True)]
    return Verdict(
        outcome=next(filter(None, problems), OK),
        rankings=tuple(
            result
            for result, problem in zip(results, problems, strict=True)
            if not isinstance(result, str) and problem is None
        ),
    )


def _problem(result: ranking_pb2.RankResponse | str, candidates: IntArray, limit: int) -> str | None:
    if isinstance(result, str):
        return result
    wrong = find_problem(result, candidates, limit)
    return None if wrong is None else f"wrong reply: {wrong}"


def _results(call: RankCall, reply: bytes) -> list[ranking_pb2.RankResponse | str]:
    """For each request, the response or its problem."""
    if not call.is_batch:
        return [ranking_pb2.RankResponse.FromString(reply)]
    return [_result(result) for result in ranking_pb2.BatchRankResponse.FromString(reply).results]


def _result(result: ranking_pb2.RankResult) -> ranking_pb2.RankResponse | str:
    match result.WhichOneof("outcome"):
        case "response":
            return result.response
        case "error":
            return read_status(result.error).code.name
        case _:
            return "wrong reply: a result without an outcome"


def find_problem(response: ranking_pb2.RankResponse, candidates: IntArray, limit: int) -> str | None:
    """The first violation of the contract in a response, or None; candidates int64 (n) ascending."""
    posts = np.array(response.post_ids, np.int64)
    scores = np.array(response.scores, np.float32)
    dropped = response.dropped
    kept = len(candidates) - sum(getattr(dropped, field.name) for field in dropped.DESCRIPTOR.fields)
    if len(posts) != len(scores):
        return "posts and scores differ in number"
    if not np.isfinite(scores).all() or (scores[:-1] < scores[1:]).any():
        return "scores do not descend"
    if len(posts) != (min(limit, kept) if limit else kept):
        return "posts are missing or too many"
    if response.ranker == ranking_pb2.RANKER_NEUCF and not response.model_version:
        return "no model version"
    return _find_wrong_post(posts, candidates)


def find_page_problem(page: ranking_pb2.GetTimelineResponse, page_size: int) -> str | None:
    """The first violation of the contract in a page, or None. Any order is valid (re-ranking)."""
    if len(page.post_ids) != len(page.scores):
        return "posts and scores differ in number"
    if not np.isfinite(np.array(page.scores, np.float32)).all():
        return "a score that is no number"
    if page_size and len(page.post_ids) > page_size:
        return "more posts than a page has"
    if len(set(page.post_ids)) < len(page.post_ids):
        return "a post twice"
    if page.ranker == ranking_pb2.RANKER_NEUCF and not page.model_version:
        return "no model version"
    return None


def _find_wrong_post(posts: IntArray, candidates: IntArray) -> str | None:
    rows = np.searchsorted(candidates, posts)
    if len(posts) and (rows.max() >= len(candidates) or (candidates[rows] != posts).any()):
        return "a post that was no candidate"
    return "a post twice" if np.bincount(rows, minlength=1).max() > 1 else None

"""The protocols of the sides: queries to messages, messages to rankings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.service import SERVICE_NAME
from tests.benchmarks.h2load import Route
from tests.benchmarks.peers import v2
from tests.benchmarks.peers.queries import Query
from tests.benchmarks.peers.ranking import BEST, FloatArray, IntArray

RANK, BATCH_RANK = Route(f"/{SERVICE_NAME}/Rank"), Route(f"/{SERVICE_NAME}/BatchRank")
V2_INFER = Route(v2.PATH)

# Posts int64 (n), best first, and their scores float32 (n).
Answer = tuple[IntArray, FloatArray]


# One ranking of a raw reply.
ANSWER = np.dtype([("posts", np.int64, BEST), ("scores", np.float32, BEST)])


class WrongReply(Exception):
    """A reply that cannot be read, or has a wrong ranking."""


class Wire(Protocol):
    """Encodes queries as a message, and decodes rankings from a reply."""

    @property
    def route(self) -> Route:
        """The method to call."""
        ...

    def message(self, queries: Sequence[Query]) -> bytes:
        """One message with all queries."""
        ...

    def answers(self, reply: bytes) -> list[Answer]:
        """The rankings of a reply, in the order of the queries.

        Raises:
            WrongReply: The reply has another format.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rank:
    """Animora's Rank, past the cache."""

    route: Route = RANK

    def message(self, queries: Sequence[Query]) -> bytes:
        """See Wire."""
        (query,) = queries
        return _rank_request(query).SerializeToString()

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        return [_answer(pb.RankResponse.FromString(reply))]


@dataclass(frozen=True, slots=True)
class BatchRank:
    """Animora's BatchRank, past the cache."""

    route: Route = BATCH_RANK

    def message(self, queries: Sequence[Query]) -> bytes:
        """See Wire."""
        return pb.BatchRankRequest(requests=map(_rank_request, queries)).SerializeToString()

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        results = pb.BatchRankResponse.FromString(reply).results
        if failed := [result.error for result in results if result.HasField("error")]:
            raise WrongReply(f"not ranked: {failed[0]}")
        return [_answer(result.response) for result in results]


@dataclass(frozen=True, slots=True)
class Raw:
    """Users and their candidates as int64; rankings as `as_bytes` encodes them."""

    route: Route

    def message(self, queries: Sequence[Query]) -> bytes:
        """See Wire."""
        return b"".join(np.array([query.user, *query.posts], np.int64).tobytes() for query in queries)

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        if len(reply) % ANSWER.itemsize:
            raise WrongReply(f"{len(reply)} bytes: {reply[:200]!r}")
        answers = np.frombuffer(reply, ANSWER)
        return list(zip(answers["posts"], answers["scores"], strict=True))


@dataclass(frozen=True, slots=True)
class Json:
    """User and candidates as JSON; the ranking as in Raw."""

    route: Route

    def message(self, queries: Sequence[Query]) -> bytes:
        """See Wire."""
        (query,) = queries
        return json.dumps({"user": query.user, "posts": query.posts.tolist()}).encode()

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        return Raw(self.route).answers(reply)


@dataclass(frozen=True, slots=True)
class V2:
    """Tensors by KServe's V2 protocol, a row for each user."""

    route: Route = V2_INFER

    def message(self, queries: Sequence[Query]) -> bytes:
        """See Wire."""
        users = np.array([[query.user] for query in queries], np.int64)
        posts = np.stack([query.posts for query in queries])
        message = v2.ModelInferRequest(model_name="ranker")
        for name, values in (("user", users), ("posts", posts)):
            message.inputs.add(name=name, datatype="INT64", shape=values.shape)
            message.raw_input_contents.append(values.tobytes())
        content: bytes = message.SerializeToString()
        return content

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        message = v2.ModelInferResponse.FromString(reply)
        contents = {
            output.name: content
            for output, content in zip(message.outputs, message.raw_output_contents, strict=True)
        }
        posts = np.frombuffer(contents["best"], np.int64).reshape(-1, BEST)
        scores = np.frombuffer(contents["scores"], np.float32).reshape(-1, BEST)
        return list(zip(posts, scores, strict=True))


def _rank_request(query: Query) -> pb.RankRequest:
    return pb.RankRequest(
        user_id=query.user,
        post_ids=query.posts.tolist(),
        limit=len(query.best),
        cache_policy=pb.CACHE_POLICY_BYPASS,
    )


def _answer(response: pb.RankResponse) -> Answer:
    if response.ranker != pb.RANKER_NEUCF:
        raise WrongReply(f"not by NEUCF: {response}")
    return np.array(response.post_ids, np.int64), np.array(response.scores, np.float32)

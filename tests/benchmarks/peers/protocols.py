"""How each side is asked, and how its replies are read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.service import SERVICE_NAME
from tests.benchmarks.h2load import Route
from tests.benchmarks.peers import v2
from tests.benchmarks.peers.questions import Question
from tests.benchmarks.peers.ranking import BEST, FloatArray, IntArray

RANK, BATCH_RANK = Route(f"/{SERVICE_NAME}/Rank"), Route(f"/{SERVICE_NAME}/BatchRank")
V2_INFER = Route(v2.PATH)

# Posts int64 (n), best first, and their scores float32 (n).
Answer = tuple[IntArray, FloatArray]


# Of a raw reply.
ANSWER = np.dtype([("posts", np.int64, BEST), ("scores", np.float32, BEST)])


class Wrong(Exception):
    """A reply that cannot be read, or is not what was asked for."""


class Wire(Protocol):
    """Questions as a message, and a message as answers."""

    @property
    def route(self) -> Route:
        """Where to."""
        ...

    def message(self, questions: Sequence[Question]) -> bytes:
        """One message that asks them all."""
        ...

    def answers(self, reply: bytes) -> list[Answer]:
        """The answers of a reply, in the order of the questions.

        Raises:
            Wrong: It is not such a reply.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rank:
    """Animora's Rank, past the cache."""

    route: Route = RANK

    def message(self, questions: Sequence[Question]) -> bytes:
        """See Wire."""
        (question,) = questions
        return _rank_request(question).SerializeToString()

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        return [_answer(pb.RankResponse.FromString(reply))]


@dataclass(frozen=True, slots=True)
class BatchRank:
    """Animora's BatchRank, past the cache."""

    route: Route = BATCH_RANK

    def message(self, questions: Sequence[Question]) -> bytes:
        """See Wire."""
        return pb.BatchRankRequest(requests=map(_rank_request, questions)).SerializeToString()

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        results = pb.BatchRankResponse.FromString(reply).results
        if failed := [result.error for result in results if result.HasField("error")]:
            raise Wrong(f"not ranked: {failed[0]}")
        return [_answer(result.response) for result in results]


@dataclass(frozen=True, slots=True)
class Raw:
    """The users, each with the candidates, as int64; the answers as PostRanker's `as_bytes` puts them."""

    route: Route

    def message(self, questions: Sequence[Question]) -> bytes:
        """See Wire."""
        return b"".join(
            np.array([question.user, *question.posts], np.int64).tobytes() for question in questions
        )

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        if len(reply) % ANSWER.itemsize:
            raise Wrong(f"{len(reply)} bytes: {reply[:200]!r}")
        answers = np.frombuffer(reply, ANSWER)
        return list(zip(answers["posts"], answers["scores"], strict=True))


@dataclass(frozen=True, slots=True)
class Json:
    """The user and the candidates as JSON; the answer as in Raw."""

    route: Route

    def message(self, questions: Sequence[Question]) -> bytes:
        """See Wire."""
        (question,) = questions
        return json.dumps({"user": question.user, "posts": question.posts.tolist()}).encode()

    def answers(self, reply: bytes) -> list[Answer]:
        """See Wire."""
        return Raw(self.route).answers(reply)


@dataclass(frozen=True, slots=True)
class V2:
    """Tensors by KServe's V2 protocol, a row for each user."""

    route: Route = V2_INFER

    def message(self, questions: Sequence[Question]) -> bytes:
        """See Wire."""
        users = np.array([[question.user] for question in questions], np.int64)
        posts = np.stack([question.posts for question in questions])
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


def _rank_request(question: Question) -> pb.RankRequest:
    return pb.RankRequest(
        user_id=question.user,
        post_ids=question.posts.tolist(),
        limit=len(question.best),
        cache_policy=pb.CACHE_POLICY_BYPASS,
    )


def _answer(response: pb.RankResponse) -> Answer:
    if response.ranker != pb.RANKER_NEUCF:
        raise Wrong(f"not by NEUCF: {response}")
    return np.array(response.post_ids, np.int64), np.array(response.scores, np.float32)

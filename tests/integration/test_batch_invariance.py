"""A pair of a user and a post has the same score, bit for bit, in whatever call and company it is scored."""

import asyncio

import numpy as np
import pytest

from animora_artifact import FolderStore
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.integration.serving import serving, with_options
from tests.support.feed import TRAINED_USERS
from tests.support.neucf_feed import neucf_artifact
from tests.support.until import until


@pytest.fixture
def store(tmp_path):
    """A store with a NeuCF version, which TorchScript scores."""
    store = FolderStore(tmp_path / "models")
    store.publish(neucf_artifact("v1"))
    store.activate("v1")
    return store


def request(user, posts, policy=pb.CACHE_POLICY_BYPASS):
    return pb.RankRequest(user_id=user, post_ids=posts, cache_policy=policy)


class Scores:
    """The score of each pair as it was first seen, and all that differ from it."""

    def __init__(self):
        self.pairs = {}
        self.different = []

    def add(self, user, reply):
        """Compares the scores of a reply for a user."""
        assert reply.ranker == pb.RANKER_NEUCF
        for post, score in zip(reply.post_ids, reply.scores, strict=True):
            bits = np.float32(score).tobytes()
            if self.pairs.setdefault((user, post), bits) != bits:
                self.different.append((user, post, score))


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_pair_has_one_score_in_every_call(settings, feed, threads):
    random = np.random.default_rng(7)
    posts = feed.post_ids.tolist()
    scores = Scores()

    def some_request(policy=pb.CACHE_POLICY_BYPASS):
        count = int(random.integers(1, len(posts) + 1))
        return request(int(random.choice(TRAINED_USERS)), random.permutation(posts)[:count].tolist(), policy)

    async with serving(with_options(settings, scorer={"threads": threads})) as (_, stub):
        for user in TRAINED_USERS:
            for post in posts:  # alone
                scores.add(user, await stub.Rank(request(user, [post])))
        assert len(scores.pairs) == len(TRAINED_USERS) * len(posts)

        coalesced = [some_request() for _ in range(100)]
        for each, reply in zip(coalesced, await asyncio.gather(*map(stub.Rank, coalesced)), strict=True):
            scores.add(each.user_id, reply)

        batch = pb.BatchRankRequest(requests=[some_request() for _ in range(60)])
        for each, result in zip(batch.requests, (await stub.BatchRank(batch)).results, strict=True):
            scores.add(each.user_id, result.response)

        for user in TRAINED_USERS:
            for policy in (pb.CACHE_POLICY_BYPASS, pb.CACHE_POLICY_DEFAULT):
                page = await stub.GetTimeline(
                    pb.GetTimelineRequest(user_id=user, cache_policy=policy, page_size=len(posts))
                )
                assert page.post_ids
                scores.add(user, page)
    assert scores.different == []


async def test_cached_scores_equal_fresh_ones_bit_for_bit(settings, feed):
    scores = Scores()
    posts = feed.post_ids.tolist()
    async with serving(settings) as (_, stub):
        for count in (1, 15, 31, len(posts)):
            for user in TRAINED_USERS:
                cached = request(user, posts[:count], pb.CACHE_POLICY_DEFAULT)
                scores.add(user, await stub.Rank(request(user, posts[:count])))
                scores.add(user, await stub.Rank(cached))
                hits: list[pb.RankResponse] = []

                async def is_hit(cached=cached, hits=hits):
                    hits.append(await stub.Rank(cached))
                    return hits[-1].cache == pb.CACHE_STATUS_HIT

                await until(is_hit)
                scores.add(user, hits[-1])
    assert scores.different == []

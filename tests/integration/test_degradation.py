"""The ladder of degradation, step by step: what a reply says, and where the docs say that it is counted."""

import asyncio

import grpc
import redis.asyncio

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.degradation import Step, ladder
from tests.integration.serving import serving, settings_for, with_options
from tests.support.feed import COLD_USER, TRAINED_USERS
from tests.support.pages import get
from tests.support.until import until

USER = TRAINED_USERS[0]


def rank(user=USER, policy=pb.CACHE_POLICY_DEFAULT, version=""):
    return pb.RankRequest(user_id=user, post_ids=[100, 200], cache_policy=policy, model_version=version)


def page(user=USER, policy=pb.CACHE_POLICY_DEFAULT, token="", size=0):
    return pb.GetTimelineRequest(user_id=user, cache_policy=policy, page_token=token, page_size=size)


def origin(reply):
    """What a reply says about its step, as the table of the docs names it."""
    said = f"`ranker` {pb.Ranker.Name(reply.ranker).removeprefix('RANKER_')}"
    if reply.ranker == pb.RANKER_NEUCF:
        return f"{said}, `cache` {pb.CacheStatus.Name(reply.cache).removeprefix('CACHE_STATUS_')}"
    if reply.degraded_reason:
        reason = pb.DegradedReason.Name(reply.degraded_reason).removeprefix("DEGRADED_REASON_")
        return f"{said}, `degraded_reason` {reason}"
    return said


class Ladder:
    """Compares replies of a server with the table."""

    def __init__(self, application, stub):
        self._application = application
        self._stub = stub

    async def takes(self, step, request, reply=""):
        """Makes a call that takes a step, with the reply that the table names; returns the reply."""
        method = "Rank" if isinstance(request, pb.RankRequest) else "GetTimeline"
        before = await self._metrics()
        try:
            answer = await getattr(self._stub, method)(request)
            said = origin(answer)
        except grpc.aio.AioRpcError as error:
            answer, said = None, error.code().name
        assert said.startswith(reply)
        rows = [row for row in ladder() if row[0] is step and method in row[1] and row[3].startswith(said)]
        assert rows, f"no row of the table says {step}, {method}: {said}"
        after = await self._metrics()
        for metric in rows[0][4].split(", "):
            assert self._sum(after, metric) > self._sum(before, metric), metric
        return answer

    async def _metrics(self):
        return (await asyncio.to_thread(get, self._application.probes.port, "/metrics")).splitlines()

    def _sum(self, lines, metric):
        name, labels = metric.strip("`}").split("{")
        found = [line for line in lines if line.startswith(f"{name}{{") and labels in line]
        assert found, f"{metric} is not scraped"
        return sum(float(line.rpartition(" ")[2]) for line in found)


async def test_a_healthy_server_answers_by_the_model_or_with_what_is_stored(settings):
    async with serving(settings) as served:
        ladder_of = Ladder(*served)
        await ladder_of.takes(Step.MODEL, rank(), "`ranker` NEUCF, `cache` MISS")
        stub = served[1]
        await until(lambda: _is_hit(stub.Rank(rank())))  # the write is queued
        await ladder_of.takes(Step.CACHED, rank(), "`ranker` NEUCF, `cache` HIT")
        await ladder_of.takes(
            Step.MODEL, rank(policy=pb.CACHE_POLICY_REFRESH), "`ranker` NEUCF, `cache` BYPASS"
        )

        await ladder_of.takes(Step.MODEL, page(), "`ranker` NEUCF, `cache` MISS")
        await ladder_of.takes(Step.CACHED, page(), "`ranker` NEUCF, `cache` HIT")
        await ladder_of.takes(
            Step.MODEL, page(policy=pb.CACHE_POLICY_BYPASS), "`ranker` NEUCF, `cache` BYPASS"
        )
        for request in (rank(COLD_USER), page(COLD_USER)):
            await ladder_of.takes(Step.HEURISTIC, request, "`ranker` HEURISTIC")


async def _is_hit(call):
    return (await call).cache == pb.CACHE_STATUS_HIT


async def test_a_stored_timeline_is_served_stale_while_the_next_is_built(settings):
    brief = with_options(settings, timeline={"ttl": 0.1, "stale_ttl": 3600.0, "early_refresh": 0.0})
    async with serving(brief) as (application, stub):
        await stub.GetTimeline(page())

        async def is_stale():
            reply = await stub.GetTimeline(page())
            return reply.cache == pb.CACHE_STATUS_STALE

        await until(is_stale)
        lines = (await asyncio.to_thread(get, application.probes.port, "/metrics")).splitlines()
        stale = next(row for row in ladder() if row[0] is Step.STALE)
        assert stale[3] == "`ranker` NEUCF, `cache` STALE"
        for metric in stale[4].split(", "):
            assert Ladder(application, stub)._sum(lines, metric) >= 1


async def test_without_the_model_stored_timelines_are_served_and_the_heuristic_answers_the_rest(
    feed, redis_url, settings, tmp_path
):
    async with serving(settings) as (_, stub):
        first = await stub.GetTimeline(page())
    without = settings_for(feed.url, redis_url, tmp_path / "empty", models={"ready_requires_model": False})
    async with serving(without) as served:
        ladder_of = Ladder(*served)
        kept = await ladder_of.takes(Step.CACHED, page(), "`ranker` NEUCF, `cache` HIT")
        assert kept.post_ids == first.post_ids
        no_model = "`ranker` HEURISTIC, `degraded_reason` NO_MODEL"
        await ladder_of.takes(Step.HEURISTIC, page(policy=pb.CACHE_POLICY_BYPASS), no_model)
        await ladder_of.takes(Step.HEURISTIC, rank(), no_model)


async def test_what_nothing_can_answer_is_refused(settings, redis_url):
    async with serving(settings) as served:
        ladder_of = Ladder(*served)
        await ladder_of.takes(Step.REFUSAL, rank(version="v9"), "FAILED_PRECONDITION")
        first = await served[1].GetTimeline(page(size=1))
        async with redis.asyncio.from_url(redis_url) as client:
            await client.flushdb()
        await ladder_of.takes(Step.REFUSAL, page(token=first.next_page_token), "FAILED_PRECONDITION")

"""Experiments through the whole server: two versions, real Redis, and page tokens of either arm."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from animora_artifact import FolderStore
from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.app import Application
from animora_server.scoring.arms import Arms
from animora_server.settings import ExperimentSettings, Settings
from tests.integration.serving import serving, with_options
from tests.support.arms import Fallbacks
from tests.support.artifacts import tiny_artifact
from tests.support.feed import TRAINED_USERS, Feed
from tests.support.ledger import Ledger
from tests.support.pages import get
from tests.support.until import HANG_TIMEOUT, until

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

NETWORKS = {f"v{seed}": tiny_artifact(f"v{seed}", seed=seed)[1] for seed in range(1, 5)}
CANARY_USER, CONTROL_USER, _ = TRAINED_USERS
MANY_USERS = range(10_000, 12_000)
SHARE = 20


def position(user: int) -> float:
    return Arms(ExperimentSettings(), Fallbacks()).position(user)


def canary(**changes: Any) -> dict[str, Any]:
    """Options by which the arm `canary` serves CANARY_USER, and no other trained user, with version v2."""
    arm = {"share": SHARE, "offset": position(CANARY_USER) - 1, "model_version": "v2", **changes}
    end = arm["offset"] + SHARE
    assert [user for user in TRAINED_USERS if arm["offset"] <= position(user) < end] == [CANARY_USER]
    return {"experiments": {"arms": {"canary": arm}}, "timeline": {"token_key": "k" * 16}}


@pytest.fixture
def store(store: FolderStore) -> FolderStore:
    """A model store with versions v1, which is active, to v4."""
    for seed in (2, 3, 4):
        store.publish(tiny_artifact(f"v{seed}", seed=seed)[0])
    return store


def rank_request(user: int, feed: Feed, **fields: Any) -> pb.RankRequest:
    return pb.RankRequest(user_id=user, post_ids=feed.post_ids[:10], **fields)


async def until_canary(stub: "RankingServiceAsyncStub", feed: Feed) -> None:
    """Waits until the arm's version is loaded."""

    async def serves() -> bool:
        return bool((await stub.Rank(rank_request(CANARY_USER, feed))).model_version == "v2")

    await until(serves)


@pytest.fixture
async def canary_server(settings: Settings, store: FolderStore, feed: Feed) -> AsyncIterator[Any]:
    """A server whose arm `canary` serves version v2."""
    async with serving(with_options(settings, **canary())) as (application, stub):
        await until_canary(stub, feed)
        yield application, stub


async def metrics(application: Application) -> str:
    return await asyncio.to_thread(get, application.probes.port, "/metrics")


async def arms_of(stub: "RankingServiceAsyncStub", feed: Feed) -> dict[int, str]:
    """The arm of many users."""
    arms: dict[int, str] = {}
    for start in range(MANY_USERS.start, MANY_USERS.stop, 200):
        users = range(start, start + 200)
        batch = pb.BatchRankRequest(requests=[rank_request(user, feed) for user in users])
        results = (await stub.BatchRank(batch)).results
        arms |= {user: result.response.arm for user, result in zip(users, results, strict=True)}
    return arms


async def test_each_arm_ranks_by_its_version_and_every_reply_names_both(canary_server, feed):
    _, stub = canary_server
    for user, arm, version in ((CANARY_USER, "canary", "v2"), (CONTROL_USER, "control", "v1")):
        expected = feed.probabilities(NETWORKS[version], user)
        ranking = await stub.Rank(rank_request(user, feed))
        page = await stub.GetTimeline(pb.GetTimelineRequest(user_id=user))
        for reply in (ranking, page):
            assert (reply.arm, reply.model_version) == (arm, version)
            assert list(reply.scores) == pytest.approx([expected[post] for post in reply.post_ids], abs=1e-5)


async def test_a_request_that_names_a_version_is_in_no_arm(canary_server, feed):
    _, stub = canary_server
    ranking = await stub.Rank(rank_request(CANARY_USER, feed, model_version="v1"))
    assert (ranking.arm, ranking.model_version) == ("", "v1")


async def test_a_server_without_experiments_names_no_arm(stub, feed):
    assert (await stub.Rank(rank_request(7, feed))).arm == ""
    assert (await stub.GetTimeline(pb.GetTimelineRequest(user_id=7))).arm == ""


async def test_users_keep_their_arm_on_every_server_and_its_share_is_met(settings, feed, canary_server):
    _, here = canary_server
    arms = await arms_of(here, feed)
    async with serving(with_options(settings, **canary())) as (_, there):
        await until_canary(there, feed)
        assert await arms_of(there, feed) == arms
    share = list(arms.values()).count("canary") / len(arms)
    deviation = (SHARE / 100 * (1 - SHARE / 100) / len(arms)) ** 0.5
    assert share == pytest.approx(SHARE / 100, abs=5 * deviation)


async def test_a_larger_share_moves_users_from_control_into_the_arm_alone(settings, store, feed):
    arms = []
    for share in (10, 30):
        options = canary() | {"experiments": {"arms": {"canary": {"share": share}}}}
        async with serving(with_options(settings, **options)) as (_, stub):
            arms.append(await arms_of(stub, feed))
    moved = {(arms[0][user], arms[1][user]) for user in MANY_USERS if arms[0][user] != arms[1][user]}
    assert moved == {("control", "canary")}


@pytest.mark.parametrize(
    "overrides", [{}, {"author_discount": 0.5, "max_posts": 30}], ids=["as control", "own"]
)
async def test_a_scroll_stays_in_its_arm_when_the_share_changes(settings, store, feed, overrides):
    options = canary(timeline=overrides)
    async with serving(with_options(settings, **options)) as (_, stub):
        await until_canary(stub, feed)
        first = await stub.GetTimeline(pb.GetTimelineRequest(user_id=CANARY_USER, page_size=10))
        whole = await stub.GetTimeline(pb.GetTimelineRequest(user_id=CANARY_USER, page_size=100))
    options["experiments"]["arms"]["canary"]["share"] = 0
    async with serving(with_options(settings, **options)) as (_, stub):
        token, posts = first.next_page_token, list(first.post_ids)
        while token:
            page = await stub.GetTimeline(
                pb.GetTimelineRequest(user_id=CANARY_USER, page_size=10, page_token=token)
            )
            assert (page.arm, page.model_version) == ("canary", "v2")
            token = page.next_page_token
            posts += page.post_ids
        assert posts == list(whole.post_ids)
        again = await stub.GetTimeline(pb.GetTimelineRequest(user_id=CANARY_USER, page_size=100))
        assert (again.arm, again.model_version) == ("control", "v1")
        assert list(again.post_ids) != posts


async def test_control_serves_until_the_version_of_the_arm_is_published(settings, store, feed, tmp_path):
    options = with_options(settings, **canary(model_version="v9"))
    async with serving(options) as (application, stub):
        ranking = await stub.Rank(rank_request(CANARY_USER, feed))
        assert (ranking.arm, ranking.model_version) == ("control", "v1")
        page = await stub.GetTimeline(pb.GetTimelineRequest(user_id=CANARY_USER))
        assert (page.arm, page.model_version) == ("control", "v1")

        async def refused() -> bool:
            await stub.Rank(rank_request(CANARY_USER, feed))
            return 'animora_arm_fallbacks_total{arm="canary",reason="refused"} 0.0' not in await metrics(
                application
            )

        await until(refused)
        assert 'animora_model_rejections_total{reason="not_found"} 0.0' not in await metrics(application)
        store.publish(tiny_artifact("v9", seed=2)[0])

        async def serves() -> bool:
            return (await stub.Rank(rank_request(CANARY_USER, feed))).arm == "canary"

        await until(serves)


async def test_the_metrics_tell_the_arms_apart(canary_server, feed):
    application, stub = canary_server
    before = counts(await metrics(application))
    for user in TRAINED_USERS:
        await stub.Rank(rank_request(user, feed))
        await stub.GetTimeline(pb.GetTimelineRequest(user_id=user))
    after = counts(await metrics(application))
    assert {key: after[key] - before.get(key, 0) for key in after} == {
        ("Rank", "canary"): 1,
        ("Rank", "control"): 2,
        ("GetTimeline", "canary"): 1,
        ("GetTimeline", "control"): 2,
    }


def counts(text: str) -> dict[tuple[str, str], float]:
    """How many answers are counted as ok, by method and arm."""
    line = r'^animora_arm_requests_total{arm="(\w+)",method="(\w+)",outcome="ok"} (\S+)$'
    found = re.findall(line, text, re.MULTILINE)
    return {(method, arm): float(value) for arm, method, value in found if method != "BatchRank"}


class Scrolls:
    """Scrolls through timelines again and again; checks arm, version and scores of each page."""

    def __init__(self, stub: "RankingServiceAsyncStub", feed: Feed) -> None:
        self.stub = stub
        self.feed = feed
        self.stop = asyncio.Event()
        self.finished = 0
        self.wrong: list[str] = []

    async def run(self, user: int) -> None:
        while not self.stop.is_set():
            token = ""
            arms: set[tuple[str, str]] = set()
            seen: set[int] = set()
            while True:
                page = await self.stub.GetTimeline(
                    pb.GetTimelineRequest(user_id=user, page_size=15, page_token=token), timeout=60
                )
                arms.add((page.arm, page.model_version))
                self._check(user, page, seen)
                token = page.next_page_token
                if not token:
                    break
            if len(arms) != 1 or {arm for arm, _ in arms} != {"canary" if user == CANARY_USER else "control"}:
                self.wrong.append(f"user {user}: a scroll by {arms}")
            self.finished += 1

    def _check(self, user: int, page: pb.GetTimelineResponse, seen: set[int]) -> None:
        if page.ranker != pb.RANKER_NEUCF:
            self.wrong.append(f"user {user}: {pb.DegradedReason.Name(page.degraded_reason)}")
            return
        expected = self.feed.probabilities(NETWORKS[page.model_version], user)
        for post, score in zip(page.post_ids, page.scores, strict=True):
            if abs(score - expected[post]) > 1e-5 or post in seen:
                self.wrong.append(f"user {user}, post {post}: {score} by {page.model_version}")
            seen.add(post)


async def test_20_swaps_of_the_active_version_while_an_arm_serves_another(canary_server, feed, store):
    _, stub = canary_server
    ledger, scrolls = Ledger(feed, NETWORKS), Scrolls(stub, feed)
    async with asyncio.timeout(HANG_TIMEOUT), asyncio.TaskGroup() as scrolling, ledger.load(stub):
        for user in (CANARY_USER, CONTROL_USER):
            scrolling.create_task(scrolls.run(user))
        for swap in range(20):
            version = f"v{(3, 4, 1)[swap % 3]}"
            ledger.versions.clear()
            store.activate(version)
            await ledger.until_version(version)
            await ledger.more(20)
            assert set(ledger.versions) <= {"v1", "v2", "v3", "v4"}
            assert ledger.versions["v2"]
        finished = scrolls.finished
        await until(lambda: scrolls.finished > finished + 2)
        scrolls.stop.set()
    assert ledger.wrong == scrolls.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}
    assert ledger.arms.keys() == {
        (CANARY_USER, "canary", "v2"),
        *((user, "control", version) for user in TRAINED_USERS[1:] for version in ("v1", "v3", "v4")),
    }


async def test_an_arm_of_the_version_that_becomes_active_goes_on(canary_server, feed, store):
    _, stub = canary_server
    ledger = Ledger(feed, NETWORKS)
    async with asyncio.timeout(HANG_TIMEOUT), ledger.load(stub):
        for version in ("v2", "v3"):
            store.activate(version)

            async def active(version: str = version) -> bool:
                return bool((await stub.Rank(rank_request(CONTROL_USER, feed))).model_version == version)

            await until(active)
            await ledger.more(50)
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}
    assert {key for key in ledger.arms if key[0] == CANARY_USER} == {(CANARY_USER, "canary", "v2")}

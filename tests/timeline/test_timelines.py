"""Pages of timelines: where they come from, what they hold, and where page tokens lead."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from animora_server.errors import DeadlineExpired, InvalidRequest, Overloaded, RankedTimelineGone
from animora_server.timeline import LocalTimelineStore
from animora_server.types import CachePolicy, CacheStatus, DegradedReason, DropReason, RankerName
from tests.support.catalogs import NOW, snapshot
from tests.timeline.worlds import ALL, COLD, LOGITS, POSTS, USER, World


@pytest.fixture
def world() -> World:
    return World()


async def test_pages_show_the_whole_feed_once_best_first(world):
    assert await world.all_pages() == ALL


async def test_a_first_page_is_computed_once_and_then_found(world):
    first = await world.page()
    second = await world.page()

    assert (first.cache, second.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert first.post_ids.tolist() == second.post_ids.tolist() == ALL[:10]
    assert world.model.calls == 1
    assert first.ranker is RankerName.NEUCF
    assert first.model_version == "v1"


async def test_a_first_page_takes_the_serving_state_before_and_after_it_has_the_timeline(world):
    await world.page()
    await world.page()

    assert world.state.looks == 4


async def test_concurrent_misses_share_one_build(world):
    world.model.gate = asyncio.Event()
    pages = [asyncio.create_task(world.page()) for _ in range(500)]
    await world.model.called.wait()
    world.model.gate.set()

    assert {tuple(page.post_ids.tolist()) for page in await asyncio.gather(*pages)} == {tuple(ALL[:10])}
    assert world.model.calls == 1
    assert len(world.store.put_as_latest) == 1


async def test_a_cold_user_gets_the_heuristic_which_is_not_degraded_and_is_kept(world):
    first = await world.page(COLD)
    second = await world.page(COLD)

    assert first.ranker is RankerName.HEURISTIC
    assert first.degraded_reason is None
    assert second.cache is CacheStatus.HIT


async def test_a_timeline_of_another_model_is_a_miss_but_its_page_tokens_stay_valid(world):
    before = await world.page()
    world.state.activate({post: -logit for post, logit in LOGITS.items()}, "v2")

    after = await world.page()
    rest = await world.page(page_token=before.next_page_token)

    assert (after.cache, after.model_version) == (CacheStatus.MISS, "v2")
    assert after.post_ids.tolist() == ALL[:-11:-1]
    assert (rest.post_ids.tolist(), rest.model_version) == (ALL[10:20], "v1")


async def test_a_cold_users_timeline_is_a_miss_once_a_model_knows_them(world):
    await world.page(COLD)
    world.state.activate(LOGITS, "v2").user_row = lambda user_id: 1

    assert (await world.page(COLD)).ranker is RankerName.NEUCF


async def test_a_stale_timeline_is_served_while_one_refresh_runs(world):
    await world.page()
    world.clock.now += world.settings.ttl * 1.1
    world.model.gate = asyncio.Event()

    stale = [await world.page() for _ in range(3)]
    world.model.gate.set()
    await world.store.until_latest(2)

    assert [page.cache for page in stale] == [CacheStatus.STALE] * 3
    assert world.refreshes.why == ["stale"]
    made, renewed = world.model.deadlines
    assert made is not None
    assert renewed is None  # background work has no deadline
    assert (await world.page()).cache is CacheStatus.HIT


async def test_a_timeline_is_refreshed_early_by_chance():
    world = World(early_refresh=1e30)  # refreshes early in any case
    await world.page()
    world.clock.now += 1

    assert (await world.page()).cache is CacheStatus.HIT
    await world.store.until_latest(2)
    assert world.refreshes.why == ["early"]
    assert world.model.calls == 2


async def test_a_timeline_that_is_too_old_is_a_miss(world):
    await world.page()
    world.clock.now += world.settings.ttl * 1.1 + world.settings.stale_ttl

    assert (await world.page()).cache is CacheStatus.MISS


async def test_a_timeline_from_the_future_is_a_miss_once_the_clock_is_right(world):
    now = world.clock.now
    world.clock.now = now + 40 * 86_400
    assert (await world.page()).post_ids.tolist() == []  # all posts are too old
    world.clock.now = now

    assert (await world.page()).post_ids.tolist() == ALL[:10]
    assert (await world.page()).cache is CacheStatus.HIT


async def test_a_scroll_that_began_in_the_future_starts_over(world):
    now = world.clock.now
    world.clock.now = now + 86_400
    first = await world.page()
    world.clock.now = now

    with pytest.raises(RankedTimelineGone):
        await world.page(page_token=first.next_page_token)


async def test_hosts_whose_clocks_differ_a_little_share_timelines(world):
    first = await world.page()
    world.clock.now -= 30

    assert (await world.page()).cache is CacheStatus.HIT
    assert (await world.page(page_token=first.next_page_token)).post_ids.tolist() == ALL[10:20]


async def test_a_clock_beyond_the_range_of_a_token_is_no_error(world):
    world.clock.now = 2.0**33
    world.add({1000 + number: {"age": NOW - 2.0**33} for number in range(2)})
    first = await world.page(size=1)
    with pytest.raises(RankedTimelineGone):  # the last moment that a token can name has passed
        await world.page(size=1, page_token=first.next_page_token)


async def test_a_timeline_whose_token_is_new_may_still_be_on_its_way_from_another_process(world):
    first = await world.page()
    now = asyncio.get_running_loop().time()
    await world.page(page_token=first.next_page_token)
    assert now + 1 < world.store.written_by < now + 60
    world.clock.now += 10
    await world.page(page_token=first.next_page_token)
    assert world.store.written_by <= asyncio.get_running_loop().time()


async def test_a_timeline_is_not_waited_for_longer_where_the_tokens_clock_was_ahead(world):
    first = await world.page()
    world.clock.now -= 50
    await world.page(page_token=first.next_page_token, timeout=3600.0)
    now = asyncio.get_running_loop().time()
    assert world.store.written_by < now + 10
    assert world.store.answer_by < now + 10


async def test_each_refresh_builds_a_timeline_with_its_own_time(world):
    await world.page(cache_policy=CachePolicy.REFRESH)
    world.model.logits = {post: -logit for post, logit in LOGITS.items()}

    again = await world.page(cache_policy=CachePolicy.REFRESH)

    assert again.post_ids.tolist() == ALL[::-1][:10]
    assert (await world.page()).post_ids.tolist() == again.post_ids.tolist()


async def test_refresh_computes_and_keeps_and_bypass_keeps_for_its_own_tokens_only(world):
    await world.page()

    refreshed = await world.page(cache_policy=CachePolicy.REFRESH)
    private = await world.page(cache_policy=CachePolicy.BYPASS)

    assert refreshed.cache is private.cache is CacheStatus.BYPASS
    assert world.model.calls == 3
    assert [len(world.store.put_as_latest), len(world.store.kept)] == [2, 1]
    rest = await world.page(page_token=private.next_page_token)
    assert rest.post_ids.tolist() == ALL[10:20]


async def test_the_heuristic_is_the_fallback_of_a_failed_model_and_its_timeline_is_never_the_latest(world):
    world.model.failure = Overloaded()

    page = await world.page()
    rest = await world.page(page_token=page.next_page_token)
    world.model.failure = None

    assert (page.ranker, page.degraded_reason) == (RankerName.HEURISTIC, DegradedReason.OVERLOADED)
    assert not set(page.post_ids.tolist()) & set(rest.post_ids.tolist())
    assert (await world.page()).ranker is RankerName.NEUCF


async def test_without_a_model_a_stored_timeline_is_served(world):
    await world.page()
    world.state.active = None

    assert (await world.page()).ranker is RankerName.NEUCF


async def test_without_time_for_the_model_the_fallback_is_the_heuristic(world):
    world.model.gate = asyncio.Event()  # never

    page = await world.page_with_short_timeout()

    assert page.degraded_reason is DegradedReason.DEADLINE
    await world.store.until_put(1)
    rest = await world.page(page_token=page.next_page_token)
    assert not set(rest.post_ids.tolist()) & set(page.post_ids.tolist())
    with pytest.raises(DeadlineExpired):
        await world.page(timeout=-1.0)


async def test_a_caller_with_more_time_gets_the_timeline_that_another_had_no_time_for(world):
    world.model.gate = asyncio.Event()
    patient = asyncio.create_task(world.page())
    hasty = await world.page_with_short_timeout()
    world.model.gate.set()

    assert hasty.degraded_reason is DegradedReason.DEADLINE
    assert (await patient).ranker is RankerName.NEUCF
    assert world.model.calls == 1


async def test_a_block_hides_both_ways_on_every_page_without_a_purge(world):
    first = await world.page()
    world.state.snapshot = snapshot(POSTS, blocks=[(1001, USER)])

    assert all(post % 2 == 0 for post in (await world.page()).post_ids.tolist())
    second = await world.page(page_token=first.next_page_token)
    assert second.post_ids.tolist() == [post for post in ALL[10:] if post % 2 == 0][:10]
    world.state.snapshot = snapshot(POSTS)
    assert await world.all_pages() == ALL


async def test_deleted_seen_own_and_excluded_posts_are_not_shown(world):
    await world.page()  # the timeline is ranked before the changes below
    posts = {**POSTS, 2: {**POSTS[2], "deleted": 1}, 4: {**POSTS[4], "author": USER}}
    world.state.snapshot = snapshot(posts, seen=[(USER, 1)])

    shown = await world.all_pages(exclude_post_ids=np.array([3, 30]))

    assert shown == [post for post in ALL if post not in (1, 2, 3, 4, 30)]


async def test_seen_posts_are_shown_on_request(world):
    world.state.snapshot = snapshot(POSTS, seen=[(USER, 1)])

    assert (await world.page()).post_ids[0] == 2
    assert (await world.page(include_seen=True)).post_ids[0] == 1


async def test_posts_newer_than_the_timeline_are_merged_into_its_first_page_and_never_repeated(world):
    await world.page()
    world.add({100: {"age": -1.0}, 101: {"age": -2.0}, 102: {"age": -3.0, "author": USER}})
    world.clock.now += 10
    world.model.logits = {**LOGITS, 100: 2.65, 101: -9.0, 102: 9.0}

    first = await world.page()
    shown = await world.all_pages()

    assert first.cache is CacheStatus.HIT
    assert first.post_ids.tolist() == [1, 2, 3, 100, 4, 5, 6, 7, 8, 9]
    assert shown == [1, 2, 3, 100, *range(4, 31)]
    world.model.failure = Overloaded()
    assert (await world.page()).post_ids.tolist() == ALL[:10]


async def test_a_lost_timeline_is_gone(world):
    page = await world.page()
    world.store.store = LocalTimelineStore(2400.0, world.clock)

    with pytest.raises(RankedTimelineGone):
        await world.page(page_token=page.next_page_token)


async def test_a_scroll_ends_a_time_after_it_began(world):
    page = await world.page(size=1)
    for _ in range(3):
        world.clock.now += world.settings.token_ttl / 4
        page = await world.page(size=1, page_token=page.next_page_token)
    world.clock.now += world.settings.token_ttl / 4

    with pytest.raises(RankedTimelineGone):
        await world.page(page_token=page.next_page_token)


async def test_a_token_is_good_for_its_user_and_options_alone(world):
    token = (await world.page()).next_page_token

    with pytest.raises(InvalidRequest, match="page_token"):
        await world.page(user_id=8, page_token=token)
    with pytest.raises(InvalidRequest, match="page_token"):
        await world.page(include_seen=True, page_token=token)


async def test_pages_are_explained(world):
    page = await world.page(explain=True)
    cold = await world.page(COLD, explain=True)

    sums = page.explained.terms.values.sum(axis=1)
    assert sums == pytest.approx([LOGITS[post] for post in page.post_ids.tolist()], abs=1e-5)
    assert page.explained.reranking is None
    assert cold.explained.terms.values.sum(axis=1) == pytest.approx(cold.scores, abs=1e-6)


async def test_re_ranked_pages_are_explained_twice():
    world = World(recency_weight=0.5, author_discount=0.9)

    first = await world.page(explain=True)
    second = await world.page(explain=True, page_token=first.next_page_token)

    for page in (first, second):
        assert page.explained.reranking.values.sum(axis=1) == pytest.approx(page.scores, abs=1e-6)
        assert page.explained.terms.values.sum(axis=1) == pytest.approx(
            [LOGITS[post] for post in page.post_ids.tolist()], abs=1e-5
        )


async def test_a_timeline_whose_model_has_left_is_served_without_terms(world):
    first = await world.page()
    world.state.activate(LOGITS, "v2")
    world.state.resident = {"v2": world.state.active}

    page = await world.page(explain=True, page_token=first.next_page_token)

    assert page.post_ids.tolist() == ALL[10:20]
    assert page.explained is None


async def test_drop_reasons_explain_missing_posts():
    world = World(max_posts=20)
    posts = {**POSTS, 2: {**POSTS[2], "deleted": 1}, 99: {"age": 40 * 86400.0}}
    world.state.snapshot = snapshot(posts, seen=[(USER, 1)])

    page = await world.page(explain_post_ids=np.array([1, 2, 3, 30, 99, 12345]))

    assert dict(page.dropped_posts) == {
        1: DropReason.SEEN,
        2: DropReason.DELETED,
        30: DropReason.OUTRANKED,
        99: DropReason.TOO_OLD,
        12345: DropReason.UNKNOWN,
    }


async def test_more_newer_posts_than_fit_on_a_page_have_the_timeline_refreshed(world):
    await world.page()
    newer = {100 + n: {"age": -1.0 - n} for n in range(25)}
    world.add(newer)
    world.model.logits = {**LOGITS, **dict.fromkeys(newer, 5.0)}

    first = await world.page()
    await world.store.until_latest(2)

    assert set(first.post_ids.tolist()) < set(newer)
    assert world.refreshes.why == ["newer"]
    assert set(newer) < set(await world.all_pages())


async def test_a_timeline_built_before_a_restart_is_refreshed_since_it_may_lack_late_posts(world):
    first = await world.page()
    world.model.logits = {**LOGITS, 100: 5.0}
    loaded = snapshot({**POSTS, 100: {"age": 3600.0}})
    world.state.snapshot = replace(loaded, arrived_at=np.full(len(loaded), NOW + 10), read_at=NOW + 10)

    again = await world.page()
    await world.store.until_latest(2)

    assert (again.cache, again.post_ids.tolist()) == (CacheStatus.HIT, first.post_ids.tolist())
    assert (await world.page()).post_ids[0] == 100
    assert world.refreshes.why == ["restart"]


async def test_a_newer_post_without_features_is_left_to_the_next_timeline(world):
    await world.page()
    world.add({100: {"age": -1.0}})
    world.model.logits = {**LOGITS, 100: 9.0}  # the logit of an unknown post has no meaning
    world.model.featureless = {100}

    assert 100 not in (await world.page()).post_ids
    assert 100 in (await world.page(cache_policy=CachePolicy.REFRESH, size=100)).post_ids


async def test_a_post_merged_into_the_first_page_is_not_reported_as_outranked_on_the_second(world):
    await world.page()
    world.add({100: {"age": -1.0}})
    world.model.logits = {**LOGITS, 100: 9.0}

    first = await world.page()
    second = await world.page(page_token=first.next_page_token, explain_post_ids=np.array([100]))

    assert first.post_ids[0] == 100
    assert not second.dropped_posts


async def test_a_newer_post_below_the_first_page_is_reported_as_outranked(world):
    await world.page()
    world.add({100: {"age": -1.0}, 101: {"age": -2.0}})
    world.model.logits = {**LOGITS, 100: 9.0, 101: -9.0}

    page = await world.page(explain_post_ids=np.array([1, 100, 101]))

    assert page.post_ids[0] == 100
    assert page.dropped_posts == {101: DropReason.OUTRANKED}


@pytest.mark.parametrize("failure", [None, Overloaded()])
async def test_a_block_that_arrives_while_newer_posts_are_scored_takes_effect(world, failure):
    await world.page()
    world.add({100: {"age": -1.0}})
    world.model.gate = asyncio.Event()
    world.model.called.clear()
    page = asyncio.create_task(world.page())
    await world.model.called.wait()

    world.add({100: {"age": -1.0}}, blocks=[(1001, USER)])
    world.model.failure = failure
    world.model.gate.set()

    assert all(post % 2 == 0 for post in (await page).post_ids.tolist())


async def test_a_block_that_arrives_while_a_page_is_explained_takes_effect(world):
    await world.page()
    world.model.gate = asyncio.Event()
    world.model.called.clear()
    explained = asyncio.create_task(world.page(explain=True))
    await world.model.called.wait()

    world.state.snapshot = snapshot(POSTS, blocks=[(1001, USER)])
    world.model.gate.set()
    page = await explained

    assert page.post_ids.tolist() == [2, 4, 6, 8, 10]
    assert page.explained.terms.values.sum(axis=1) == pytest.approx(
        [LOGITS[post] for post in page.post_ids.tolist()], abs=1e-5
    )


async def test_explaining_does_not_outlast_the_deadline(world):
    await world.page()
    world.model.gate = asyncio.Event()  # never

    page = await world.page_with_short_timeout(explain=True)

    assert page.post_ids.tolist() == ALL[:10]
    assert page.explained is None


async def test_scores_that_rounding_made_certain_are_explained(world):
    world.model.logits = dict.fromkeys(POSTS, 40.0)
    world.model.featureless = {1}

    page = await world.page(explain=True)

    assert np.isfinite(page.explained.terms.values).all()

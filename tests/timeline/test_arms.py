"""Timelines of users in arms: settings, version, page tokens and stored timelines of each arm."""

import numpy as np
import pytest

from animora_server.errors import RankedTimelineGone
from animora_server.timeline.store import timeline_key
from animora_server.types import CacheStatus
from tests.support.arms import Fallbacks
from tests.timeline.worlds import ALL, LOGITS, USER, World

REVERSED = {post: -logit for post, logit in LOGITS.items()}
SECOND_VERSION = {"canary": {"share": 100, "model_version": "v2"}}
FEWER_POSTS = {"canary": {"share": 100, "timeline": {"max_posts": 15}}}


@pytest.fixture
def world() -> World:
    """A world in which v2 is loaded beside the active v1, and ranks in the opposite order."""
    world = World()
    world.state.activate(REVERSED, "v2")
    world.state.activate(LOGITS, "v1")
    return world


async def test_without_experiments_a_page_names_no_arm(world):
    assert (await world.page()).arm == ""


async def test_users_of_no_arm_are_in_the_control_arm(world):
    world.timelines = world.timelines_in({"canary": {"share": 0}})
    assert (await world.page()).arm == "control"


async def test_the_version_of_an_arm_ranks_its_users_feeds(world):
    world.timelines = world.timelines_in(SECOND_VERSION)
    page = await world.page()
    assert (page.arm, page.model_version) == ("canary", "v2")
    assert page.post_ids.tolist() == ALL[:-11:-1]


async def test_the_settings_of_an_arm_shape_its_users_feeds(world):
    world.timelines = world.timelines_in(FEWER_POSTS)
    assert await world.all_pages() == ALL[:15]


async def test_a_timeline_of_the_arm_is_stored_and_found_again(world):
    world.timelines = world.timelines_in(SECOND_VERSION)
    assert (await world.page()).cache is CacheStatus.MISS
    again = await world.page()
    assert (again.cache, again.model_version) == (CacheStatus.HIT, "v2")


async def test_an_arm_with_the_settings_and_version_of_control_shares_its_timelines(world):
    await world.page()
    world.timelines = world.timelines_in({"canary": {"share": 100}})
    page = await world.page()
    assert (page.arm, page.cache) == ("canary", CacheStatus.HIT)


@pytest.mark.parametrize("arms", [SECOND_VERSION, FEWER_POSTS])
async def test_no_arm_is_served_the_timeline_of_another(world, arms):
    control = world.timelines
    world.timelines = canary = world.timelines_in(arms)
    await world.page()
    world.timelines = control
    assert (await world.page()).cache is CacheStatus.MISS
    world.timelines = canary
    page = await world.page()
    assert page.model_version == arms["canary"].get("model_version", "v1")
    assert len(await world.all_pages()) == (15 if arms is FEWER_POSTS else 30)


@pytest.mark.parametrize(("arms", "rest"), [(SECOND_VERSION, ALL[-11::-1]), (FEWER_POSTS, ALL[10:15])])
@pytest.mark.parametrize("then", ["share 0", "switched off"])
async def test_a_scroll_continues_in_its_arm_after_the_arm_has_ended(world, arms, rest, then):
    world.timelines = world.timelines_in(arms)
    token = (await world.page()).next_page_token
    if then == "share 0":
        world.timelines = world.timelines_in({"canary": {**arms["canary"], "share": 0}})
    else:
        world.arms.disable("canary", "a test")
    page = await world.page(page_token=token, size=30)
    assert page.arm == "canary"
    assert page.post_ids.tolist() == rest
    assert (await world.page()).arm == "control"


async def test_a_scroll_of_control_stays_in_control_when_the_user_moves_into_an_arm(world):
    token = (await world.page()).next_page_token
    world.timelines = world.timelines_in(SECOND_VERSION)
    page = await world.page(page_token=token, size=30)
    assert (page.arm, page.model_version) == ("control", "v1")
    assert page.post_ids.tolist() == ALL[10:]


async def test_a_scroll_of_a_removed_arm_continues_if_the_arm_had_the_settings_of_control(world):
    world.timelines = world.timelines_in(SECOND_VERSION)
    token = (await world.page()).next_page_token
    world.timelines = world.timelines_in({})
    assert (await world.page(page_token=token)).model_version == "v2"


async def test_a_scroll_of_a_removed_arm_with_other_settings_is_gone(world):
    world.timelines = world.timelines_in(FEWER_POSTS)
    token = (await world.page()).next_page_token
    world.timelines = world.timelines_in({})
    with pytest.raises(RankedTimelineGone):
        await world.page(page_token=token)


async def test_control_serves_the_users_of_an_arm_whose_version_is_not_loaded(world):
    fallbacks = Fallbacks()
    world.timelines = world.timelines_in({"canary": {"share": 100, "model_version": "v3"}}, fallbacks)
    page = await world.page()
    assert (page.arm, page.model_version) == ("control", "v1")
    assert fallbacks.seen == [("canary", "loading")]


async def test_newer_posts_beyond_the_first_page_are_ranked_by_the_version_of_the_arm(world):
    world.timelines = world.timelines_in(SECOND_VERSION)
    await world.page()
    world.add({post: {"author": 1000, "age": 1.0} for post in range(100, 120)})
    await world.page(size=5)
    await world.store.until_latest(2)
    assert [timeline.model_version for timeline in world.store.put_as_latest] == ["v2", "v2"]


async def test_a_precomputed_timeline_by_the_version_of_the_arm_is_served(world):
    world.timelines = world.timelines_in(SECOND_VERSION)
    await world.page()
    (built,) = world.store.put_as_latest
    await world.store.put_latest(timeline_key(USER, "digest", include_seen=False), built)
    assert np.array_equal((await world.page(size=30)).post_ids, built.post_ids)

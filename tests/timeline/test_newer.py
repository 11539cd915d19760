"""Newer posts: which they are, how late ones are found, and that pages show those after a restart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from animora_server.catalog import CatalogSnapshot
from animora_server.settings import TimelineSettings
from animora_server.timeline import NewerPosts
from animora_server.timeline.eligibility import VisibilityFilter
from animora_server.timeline.store import timeline_key
from animora_server.types import CacheStatus, DropReason, GenerationPosts, RankedTimeline, RankerName
from tests.support.catalogs import NOW, snapshot
from tests.timeline.worlds import ALL, HOUR, LOGITS, POSTS, USER, World

GENERATION = b"generation".rjust(16, b".")
LOADED_AT = NOW + 10
Posts = dict[int, dict[str, float]]
LATE: Posts = {100: {"age": 5 * HOUR}}  # created long before the timeline


def loaded(posts: Posts, **more) -> CatalogSnapshot:
    """The catalog of a server that has just started."""
    catalog = snapshot(posts, **more)
    return replace(catalog, arrived_at=np.full(len(catalog), LOADED_AT), read_at=LOADED_AT)


def grown(catalog: CatalogSnapshot, posts: Posts) -> CatalogSnapshot:
    """A catalog with posts that arrived a minute later; the first rows are those of the catalog."""
    later = snapshot(posts)
    arrived_at = np.where(np.isin(later.post_ids, catalog.post_ids), LOADED_AT, LOADED_AT + 60)
    return replace(later, arrived_at=arrived_at, read_at=LOADED_AT + 60)


def timeline(
    read_at: float = NOW, generation_id: bytes = GENERATION, post_ids: Sequence[int] = ()
) -> RankedTimeline:
    held = np.array(post_ids, np.int64)
    return RankedTimeline(
        generation_id, held, held.astype(np.float32), RankerName.NEUCF, "v1", NOW, NOW, read_at
    )


class Generation:
    """Returns the posts of a generation, and counts its calls."""

    def __init__(self, *post_ids: int, generation_id: bytes = GENERATION) -> None:
        self.posts: GenerationPosts | None = GenerationPosts(generation_id, np.array(post_ids, np.int64))

    def __call__(self) -> GenerationPosts | None:
        return self.posts


def late_ids(
    posts: Posts, generation: Generation, made: RankedTimeline, max_candidates: int = 100
) -> list[int]:
    catalog = loaded(posts)
    finder = NewerPosts(generation, TimelineSettings(max_candidates=max_candidates))
    return list(map(int, catalog.post_ids[finder.late_rows(catalog, made, NOW)]))


def test_newer_posts_arrived_after_the_timeline_are_not_in_it_and_are_visible():
    catalog = snapshot(
        {
            1: {"arrived": 100},
            2: {"arrived": 20},
            3: {"arrived": 10},
            4: {"arrived": 10, "author": 60},
            5: {"arrived": 10, "deleted": 1},
        },
        blocks=[(USER, 60)],
    )
    settings = TimelineSettings()
    visibility = VisibilityFilter.of(catalog, settings, NOW, USER, include_seen=False)
    newer = NewerPosts(lambda: None, settings)
    rows = newer.to_merge(visibility, timeline(NOW - 50, post_ids=(1, 3)), NOW)
    assert catalog.post_ids[rows].tolist() == [2]
    assert newer.to_merge(visibility, timeline(NOW, post_ids=(1, 3)), NOW).tolist() == []


def test_only_the_latest_newer_posts_count():
    catalog = snapshot({post: {"arrived": 10 - post} for post in range(10)})
    newer = NewerPosts(lambda: None, TimelineSettings(max_candidates=3))
    assert catalog.post_ids[newer.rows(catalog, timeline(NOW - 5), NOW)].tolist() == [7, 8, 9]


def test_late_posts_are_those_that_the_generation_was_not_ranked_from():
    assert late_ids({**POSTS, **LATE}, Generation(*ALL), timeline()) == [100]
    assert late_ids({**POSTS, **LATE}, Generation(), timeline()) == [*ALL, 100]
    assert late_ids(POSTS, Generation(*ALL, 99), timeline()) == []
    assert late_ids({}, Generation(*ALL), timeline()) == []


def test_only_candidates_are_late_posts():
    posts: Posts = {
        1: {"age": 2 * HOUR},
        2: {"age": 40 * 86_400},
        3: {"age": HOUR, "deleted": 1},
        4: {"age": 3 * HOUR},
    }
    assert late_ids(posts, Generation(), timeline()) == [1, 4]
    assert late_ids(posts, Generation(), timeline(), max_candidates=1) == [1]


@pytest.mark.parametrize(
    "made", [timeline(LOADED_AT), timeline(LOADED_AT + 5), timeline(generation_id=b"another".rjust(16, b"."))]
)
def test_only_a_timeline_of_the_generation_from_before_the_load_has_late_posts(made: RankedTimeline):
    assert late_ids({**POSTS, **LATE}, Generation(*ALL), made) == []


def test_without_the_posts_of_the_generation_there_are_no_late_posts():
    generation = Generation(*ALL)
    generation.posts, posts = None, generation.posts
    catalog = loaded({**POSTS, **LATE})
    finder = NewerPosts(generation, TimelineSettings())
    assert finder.late_rows(catalog, timeline(), NOW).tolist() == []
    generation.posts = posts
    assert finder.late_rows(catalog, timeline(), NOW).tolist() == [30]


def test_what_arrives_after_the_load_is_left_to_the_catalog_and_changes_nothing():
    finder = NewerPosts(Generation(*ALL), TimelineSettings())
    catalog = loaded({**POSTS, **LATE})
    rows = finder.late_rows(catalog, timeline(), NOW)
    assert rows.tolist() == [30]
    later = grown(catalog, {**POSTS, **LATE, 200: {"age": HOUR}})
    assert finder.late_rows(later, timeline(), NOW) is rows  # found once
    assert NewerPosts(Generation(*ALL), TimelineSettings()).late_rows(later, timeline(), NOW).tolist() == [30]


def test_late_posts_are_found_again_after_an_epoch_or_a_generation_changes():
    generation = Generation(*ALL)
    finder = NewerPosts(generation, TimelineSettings())
    catalog = loaded({**POSTS, **LATE})
    assert finder.late_rows(catalog, timeline(), NOW).tolist() == [30]
    reordered = replace(loaded({**LATE, **POSTS}), epoch=2)
    assert finder.late_rows(reordered, timeline(), NOW).tolist() == [0]
    generation.posts = GenerationPosts(b"another".rjust(16, b"."), np.array([*ALL[1:], 100]))
    assert finder.late_rows(reordered, timeline(generation_id=b"another".rjust(16, b".")), NOW).tolist() == [
        1
    ]


@pytest.fixture
async def world() -> World:
    """A restarted server with a precomputed timeline of all but the late post."""
    world = World()
    await world.page()
    made, ranked = world.store.put_as_latest[-1], np.array(ALL)
    key = timeline_key(USER, "digest", include_seen=False)
    precomputed = replace(made, timeline_id=GENERATION, fresh_until=NOW + 86_400, cost=0.0)
    await world.store.put_latest(key, precomputed)
    world.generation_posts = GenerationPosts(GENERATION, ranked)
    world.model.logits = {**LOGITS, 100: 5.0}
    world.state.snapshot = loaded({**POSTS, **LATE})
    return world


async def test_late_posts_are_merged_into_a_precomputed_timeline_after_a_restart(world):
    first = await world.page(explain_post_ids=np.array([100]))
    rest = await world.page(page_token=first.next_page_token, explain_post_ids=np.array([100]))

    assert (first.cache, first.post_ids.tolist()) == (CacheStatus.HIT, [100, *ALL[:9]])
    assert rest.post_ids.tolist() == ALL[9:19]
    assert not first.dropped_posts
    assert not rest.dropped_posts
    assert world.refreshes.why == []


@pytest.mark.parametrize(
    "catalog",
    [
        loaded({**POSTS, 100: {"age": 5 * HOUR, "deleted": 1}}),
        loaded({**POSTS, 100: {"age": 5 * HOUR, "author": USER}}),
        loaded({**POSTS, 100: {"age": 40 * 86_400}}),
        loaded({**POSTS, **LATE}, seen=[(USER, 100)]),
        loaded({**POSTS, 100: {"age": 5 * HOUR, "author": 50}}, blocks=[(50, USER)]),
    ],
    ids=["deleted", "own", "old", "seen", "blocked"],
)
async def test_a_late_post_that_must_not_be_shown_is_not(world, catalog):
    world.state.snapshot = catalog
    assert (await world.page()).post_ids.tolist() == ALL[:10]


async def test_a_late_post_that_is_deleted_later_is_not_shown(world):
    assert 100 in (await world.page()).post_ids
    catalog = world.state.snapshot
    world.state.snapshot = replace(catalog, notified_deleted=catalog.rows(np.array([100])))
    page = await world.page(explain_post_ids=np.array([100]))
    assert page.post_ids.tolist() == ALL[:10]
    assert page.dropped_posts == {100: DropReason.DELETED}


async def test_late_posts_and_newer_posts_are_merged_into_one_page(world):
    world.model.logits = {**LOGITS, 100: 5.0, 200: 6.0}
    world.state.snapshot = grown(world.state.snapshot, {**POSTS, **LATE, 200: {"age": -1.0}})
    assert (await world.page()).post_ids.tolist() == [200, 100, *ALL[:8]]


async def test_more_late_posts_than_fit_on_a_page_have_the_timeline_refreshed(world):
    many = {100 + n: {"age": 5 * HOUR} for n in range(25)}
    world.state.snapshot = loaded({**POSTS, **many})
    world.model.logits = {**LOGITS, **dict.fromkeys(many, 5.0)}
    await world.page()
    await world.store.until_latest(3)
    assert world.refreshes.why == ["newer"]


async def test_without_the_posts_of_its_generation_a_precomputed_timeline_is_served_as_it_is(world):
    world.generation_posts = None
    page = await world.page(explain_post_ids=np.array([100]))
    assert page.post_ids.tolist() == ALL[:10]
    assert page.dropped_posts == {100: DropReason.OUTRANKED}
    assert world.refreshes.why == []

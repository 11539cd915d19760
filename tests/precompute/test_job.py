import asyncio
from dataclasses import replace

import numpy as np
import pytest

from animora_artifact import VersionNotFound
from animora_artifact.network import save_network
from animora_server.errors import ConfigurationError, InvalidScores, StoreError
from animora_server.precompute.job import RunOptions, run
from animora_server.precompute.shard import Shard
from animora_server.settings import Settings
from animora_server.timeline.store import settings_digest, timeline_key
from animora_server.types import RankerName
from tests.precompute.fakes import FakeGenerations, ProgressRecorder
from tests.support.artifacts import tiny_artifact
from tests.support.feed import AUTHORS, COLD_USER, TRAINED_USERS
from tests.support.until import HANG_TIMEOUT

USERS = (*TRAINED_USERS, COLD_USER, *AUTHORS)


@pytest.fixture
def watch():
    return ProgressRecorder()


def with_options(settings, **sections):
    """The settings with other options, by section."""
    return settings.model_copy(
        update={
            name: getattr(settings, name).model_copy(update=options) for name, options in sections.items()
        }
    )


def key(settings, user_id):
    return timeline_key(user_id, settings_digest(settings.timeline, settings.ranking), include_seen=False)


def timelines_by_user(settings, timelines):
    return {user: timelines[key(settings, user)] for user in USERS if key(settings, user) in timelines}


def same(some, others):
    """Whether timelines are equal, arrays included."""

    def plain(timelines):
        return {
            name: replace(made, post_ids=made.post_ids.tolist(), scores=made.scores.tobytes())
            for name, made in timelines.items()
        }

    return plain(some) == plain(others)


class HeldGenerations:
    """A store that begins a generation only when the test releases it."""

    def __init__(self, store):
        self._store = store
        self.beginning = asyncio.Event()
        self.may_begin = asyncio.Event()

    async def begin(self, generation):
        self.beginning.set()
        await self.may_begin.wait()
        return await self._store.begin(generation)

    def __getattr__(self, name):
        return getattr(self._store, name)


async def test_every_user_gets_a_timeline_and_the_generation_becomes_current(settings, store, watch):
    summary = await run(settings, RunOptions(), store, watch)
    made = timelines_by_user(settings, store.timelines[summary.generation.generation_id])
    assert set(made) == set(USERS)
    assert {user for user, timeline in made.items() if timeline.ranker is RankerName.NEUCF} == set(
        TRAINED_USERS
    )
    assert {timeline.model_version for user, timeline in made.items() if user in TRAINED_USERS} == {"v1"}
    assert {timeline.model_version for user, timeline in made.items() if user not in TRAINED_USERS} == {""}
    assert store.finished == summary.generation
    assert (summary.current, summary.resumed, summary.retired) == (True, False, 0)
    assert (summary.totals.neucf, summary.totals.heuristic) == (3, 5)
    assert summary.totals.pairs == sum(len(timeline.post_ids) for timeline in made.values())
    assert watch.users == sum(chunk.ranked for chunk in watch.chunks) == len(USERS)


async def test_a_timeline_holds_the_networks_best_posts_without_seen_ones(
    settings, feed, database, store, watch
):
    summary = await run(settings, RunOptions(), store, watch)
    seen = {
        row["post_id"]
        for row in await database.fetch("select post_id from animora_app.likes where user_id = 7")
    }
    expected = feed.probabilities(tiny_artifact("v1", seed=1)[1], 7)
    best = sorted(set(expected) - seen, key=expected.__getitem__, reverse=True)
    made = store.timelines[summary.generation.generation_id][key(settings, 7)]
    assert seen
    assert made.post_ids.tolist() == best
    assert made.scores == pytest.approx([expected[post] for post in best], abs=1e-5)


async def test_own_posts_are_excluded(settings, database, store, watch):
    summary = await run(settings, RunOptions(), store, watch)
    own = {
        row["id"]
        for row in await database.fetch("select id from animora_app.posts where author_id = $1", AUTHORS[0])
    }
    made = store.timelines[summary.generation.generation_id][key(settings, AUTHORS[0])]
    assert own
    assert not own & set(made.post_ids.tolist())


async def test_timelines_have_the_generations_id_time_and_reading(settings, store, watch):
    summary = await run(settings, RunOptions(), store, watch)
    generation = summary.generation
    for timeline in store.timelines[generation.generation_id].values():
        assert (timeline.timeline_id, timeline.made_at) == (generation.generation_id, generation.made_at)
        assert timeline.fresh_until == generation.made_at + settings.timeline.precomputed_ttl
        assert (timeline.read_at, timeline.cost) == (generation.read_at, 0.0)


async def test_timelines_of_a_shard_that_read_before_the_generation_began_have_the_earlier_reading(
    settings, feed, database, store, watch
):
    held = HeldGenerations(store)
    early = asyncio.create_task(run(settings, RunOptions(Shard(0, 2)), held, watch))
    await held.beginning.wait()  # it has read the posts
    posted_at = await database.fetchval(
        "insert into animora_app.posts (id, author_id, created_at) values (77, $1, now())"
        " returning created_at",
        AUTHORS[0],
    )
    second = await run(settings, RunOptions(Shard(1, 2)), store, watch)
    held.may_begin.set()
    first = await early

    assert first.generation == second.generation
    timelines = timelines_by_user(settings, store.timelines[second.generation.generation_id])
    assert {user: timeline.read_at >= posted_at.timestamp() for user, timeline in timelines.items()} == {
        user: bool(Shard(1, 2).holds(np.array([user]))[0]) for user in USERS
    }
    assert {timeline.made_at for timeline in timelines.values()} == {second.generation.made_at}
    assert store.posts[second.generation.generation_id] == set(feed.post_ids.tolist())


async def test_the_posts_of_a_generation_are_the_intersection_over_its_runs(
    settings, feed, database, store, watch
):
    gone, *rest = feed.post_ids.tolist()
    first = await run(settings, RunOptions(Shard(0, 2)), store, watch)
    await database.execute("delete from animora_app.posts where id = $1", gone)
    await database.execute(
        "insert into animora_app.posts (id, author_id, created_at) values (77, $1, now())", AUTHORS[0]
    )
    assert store.posts[first.generation.generation_id] == {gone, *rest}
    again = await run(settings, RunOptions(Shard(0, 2)), store, watch)
    second = await run(settings, RunOptions(Shard(1, 2)), store, watch)
    assert again.generation == first.generation == second.generation
    assert store.posts[second.generation.generation_id] == set(rest)


async def test_the_posts_of_a_generation_are_stored_before_its_first_timeline(settings, store, watch):
    await run(settings, RunOptions(), store, watch)
    assert store.calls.index("intersect_posts") < store.calls.index("put")


async def test_only_candidates_are_posts_of_a_generation(settings, feed, database, store, watch):
    old, deleted, *rest = feed.post_ids.tolist()
    await database.execute(
        "update animora_app.posts set created_at = now() - interval '1 year' where id = $1", old
    )
    await database.execute("update animora_app.posts set deleted_at = now() where id = $1", deleted)
    summary = await run(settings, RunOptions(), store, watch)
    assert store.posts[summary.generation.generation_id] == set(rest)


async def test_a_generation_has_the_databases_time(settings, database, store, watch):
    before = await database.fetchval("select statement_timestamp()")
    summary = await run(settings, RunOptions(), store, watch)
    after = await database.fetchval("select statement_timestamp()")
    assert before.timestamp() <= summary.generation.made_at <= after.timestamp()
    assert summary.generation.made_at == summary.generation.read_at


async def test_the_same_record_gives_the_same_timelines_in_every_run(settings, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    timelines = store.timelines.pop(first.generation.generation_id)
    store.begun = first.generation
    again = await run(settings, RunOptions(), store, watch)
    assert again.resumed
    assert not again.catalog_changed
    assert same(store.timelines[first.generation.generation_id], timelines)


async def test_a_resumed_run_ranks_incomplete_chunks_whole(settings, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    stored = store.timelines[first.generation.generation_id]
    before = dict(stored)
    del stored[key(settings, 7)]
    store.begun = first.generation
    again = await run(settings, RunOptions(), store, watch)
    assert (again.totals.ranked, again.totals.kept) == (len(USERS), 0)
    assert same(store.timelines[first.generation.generation_id], before)


async def test_a_resumed_run_skips_stored_chunks(settings, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    store.begun = first.generation
    store.calls.clear()
    again = await run(settings, RunOptions(), store, watch)
    assert (again.totals.ranked, again.totals.kept) == (0, len(USERS))
    assert "put" not in store.calls


async def test_a_resumed_run_uses_the_model_of_the_generation(settings, models, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    timelines = store.timelines.pop(first.generation.generation_id)
    store.begun = first.generation
    models.publish(tiny_artifact("v2", seed=2)[0])
    models.activate("v2")
    await run(settings, RunOptions(), store, watch)
    assert same(store.timelines[first.generation.generation_id], timelines)


async def test_a_model_missing_from_the_store_is_named_with_the_remedy(settings, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    store.begun = replace(first.generation, model_version="gone")
    with pytest.raises(ConfigurationError, match=r"model gone .*--restart") as raised:
        await run(settings, RunOptions(), store, watch)
    assert isinstance(raised.value.__cause__, VersionNotFound)


async def test_a_changed_catalog_is_in_the_summary(settings, database, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    store.begun = first.generation
    await database.execute("insert into animora_app.block_relations (blocker_id, blocked_id) values (7, 8)")
    assert (await run(settings, RunOptions(), store, watch)).catalog_changed


async def test_without_a_model_the_heuristic_ranks_all_users(settings, store, watch):
    summary = await run(with_options(settings, models={"store": ""}), RunOptions(), store, watch)
    assert (summary.totals.neucf, summary.totals.heuristic) == (0, len(USERS))
    assert summary.generation.model_version == ""


async def test_a_resumed_run_without_the_model_store_is_refused_with_the_remedy(settings, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    store.begun, store.timelines = first.generation, {}
    with pytest.raises(ConfigurationError, match=r"models\.store: .* by model v1: .*--restart"):
        await run(with_options(settings, models={"store": ""}), RunOptions(), store, watch)
    assert store.timelines == {}


async def test_a_store_without_an_active_version_does_not_replace_a_models_timelines(
    settings, store, watch, tmp_path
):
    elsewhere = with_options(settings, models={"store": str(tmp_path / "not mounted")})
    by_the_heuristic = await run(elsewhere, RunOptions(), store, watch)
    assert by_the_heuristic.current
    by_the_model = await run(settings, RunOptions(), store, watch)
    with pytest.raises(ConfigurationError, match=r"models\.store: the store has no active version"):
        await run(elsewhere, RunOptions(), store, watch)
    assert (store.finished, store.begun) == (by_the_model.generation, None)


async def test_a_model_activated_meanwhile_is_in_the_summary(settings, models, store, watch):
    store.begun = (await run(settings, RunOptions(), store, watch)).generation
    assert not (await run(settings, RunOptions(), store, watch)).model_changed
    store.begun = store.finished
    models.publish(tiny_artifact("v2", seed=2)[0])
    models.activate("v2")
    assert (await run(settings, RunOptions(), store, watch)).model_changed


async def test_only_the_last_shard_makes_the_generation_current(settings, store, watch):
    first = await run(settings, RunOptions(Shard(1, 2)), store, watch)
    assert (first.current, store.finished) == (False, None)
    second = await run(settings, RunOptions(Shard(0, 2)), store, watch)
    assert second.current
    assert second.generation == first.generation
    assert first.totals.ranked + second.totals.ranked == len(USERS)
    assert set(timelines_by_user(settings, store.timelines[first.generation.generation_id])) == set(USERS)


async def test_the_generation_before_is_retired(settings, store, watch):
    first = await run(settings, RunOptions(), store, watch)
    second = await run(settings, RunOptions(), store, watch)
    assert store.retired == [first.generation]
    assert (second.retired, second.resumed) == (len(USERS), False)


async def test_a_failure_after_the_swap_does_not_undo_the_run(settings, watch):
    class Unretiring(FakeGenerations):
        async def retire(self, generation):
            raise StoreError("Redis is away")

    store = Unretiring()
    await run(settings, RunOptions(), store, watch)
    second = await run(settings, RunOptions(), store, watch)
    assert (second.current, second.retired) == (True, 0)
    assert store.finished == second.generation


async def test_with_active_days_only_recently_active_users_are_ranked(settings, database, store, watch):
    await database.execute(
        "update animora_app.likes set created_at = now() - interval '9 days' where user_id = 8"
    )
    summary = await run(settings, RunOptions(active_days=7), store, watch)
    assert set(timelines_by_user(settings, store.timelines[summary.generation.generation_id])) == {7, 9}


async def test_a_restart_begins_another_generation(settings, store, watch):
    store.begun = replace(
        (await run(settings, RunOptions(), store, watch)).generation, settings_digest="other"
    )
    abandoned = store.begun.generation_id
    with pytest.raises(ConfigurationError, match="--restart"):
        await run(settings, RunOptions(), store, watch)
    summary = await run(settings, RunOptions(restart=True), store, watch)
    assert not summary.resumed
    assert summary.generation.generation_id != abandoned


async def test_a_restart_that_fails_abandons_nothing(settings, store, watch):
    store.begun = begun = (await run(settings, RunOptions(), store, watch)).generation
    nowhere = Settings.model_validate(
        settings.model_dump(exclude={"database"})
        | {"database": {"url": "postgresql:///nothing?host=/nowhere"}, "cache": {}, "timeline": {}}
    )
    with pytest.raises(StoreError):
        await run(nowhere, RunOptions(restart=True), store, watch)
    assert store.begun == begun


async def test_only_shard_0_may_restart(settings, store, watch):
    with pytest.raises(ConfigurationError, match="only shard 0 may"):
        await run(settings, RunOptions(Shard(1, 2), restart=True), store, watch)
    assert store.calls == []


async def test_a_store_that_fails_ends_the_run_and_keeps_the_generation_for_a_resume(settings, store, watch):
    class Full(FakeGenerations):
        async def put(self, generation, timelines):
            raise StoreError("Redis is full")

    full = Full()
    with pytest.raises(StoreError, match="full"):
        await run(settings, RunOptions(), full, watch)
    assert full.begun is not None
    assert full.finished is None


async def test_only_users_with_scores_that_are_not_finite_are_left_out(settings, models, store, watch):
    artifact, network = tiny_artifact("v2", seed=1)
    network.users.data[TRAINED_USERS.index(8) + 1] = 3e38  # overflows; no golden input reads that row
    models.publish(replace(artifact, model=save_network(network)))
    models.activate("v2")
    summary = await run(settings, RunOptions(), store, watch)
    made = timelines_by_user(settings, store.timelines[summary.generation.generation_id])
    assert set(made) == set(USERS) - {8}
    assert (summary.totals.neucf, summary.totals.left_out) == (2, 1)


async def test_a_model_without_finite_scores_is_refused_and_the_current_generation_stays(
    settings, models, store, watch
):
    before = await run(settings, RunOptions(), store, watch)
    artifact, network = tiny_artifact("v2", seed=1)
    network.caption.data.fill_(
        3e38
    )  # overflows, though not with the captions of the golden rows, which are 0
    models.publish(replace(artifact, model=save_network(network)))
    models.activate("v2")
    for _ in range(2):  # the second run finds stored timelines of users that the model does not know
        with pytest.raises(InvalidScores, match=r"v2 gave finite scores to none of the 3 users .*--restart"):
            await run(settings, RunOptions(), store, watch)
        assert store.finished == before.generation
    models.activate("v1")
    assert (await run(settings, RunOptions(restart=True), store, watch)).current


async def test_the_observer_sees_the_swap_before_the_previous_generation_is_retired(settings, store, watch):
    class Retiring(FakeGenerations):
        async def retire(self, generation):
            self.swaps_before = watch.swaps
            return 0

    store = Retiring()
    await run(settings, RunOptions(Shard(0, 2)), store, watch)
    assert watch.swaps == 0
    await run(settings, RunOptions(Shard(1, 2)), store, watch)
    await run(settings, RunOptions(), store, watch)
    assert store.swaps_before == 2


async def test_a_cancelled_run_ends_soon_whatever_its_rate_limit(settings, store, watch):
    planned = asyncio.Event()
    watch.planned = lambda plan, users: planned.set()
    task = asyncio.create_task(run(settings, RunOptions(rate=0.001), store, watch))
    async with asyncio.timeout(HANG_TIMEOUT):
        await planned.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert store.begun is not None
    assert store.finished is None

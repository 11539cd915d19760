from dataclasses import replace

import pytest

from animora_server.errors import ConfigurationError
from animora_server.precompute.plan import Plan, abandon_unfinished, begin_or_resume, new_generation_id
from animora_server.types import Generation
from tests.precompute.fakes import FakeGenerations

HOUR = 3600.0
FIRST = Generation(
    generation_id=b"first".ljust(16),
    made_at=1_800_000_000.0,
    read_at=1_799_999_999.0,
    model_version="v1",
    catalog_digest="c1",
    settings_digest="s1",
    shards=2,
)
LATER = replace(FIRST, generation_id=b"later".ljust(16), made_at=FIRST.made_at + HOUR)


@pytest.fixture
def store():
    return FakeGenerations()


async def test_the_first_run_begins_its_proposal(store):
    assert await begin_or_resume(store, FIRST) == Plan(
        FIRST, resumed=False, catalog_changed=False, model_changed=False
    )


async def test_a_later_run_resumes_with_the_first_ones_time_model_and_id(store):
    await begin_or_resume(store, FIRST)
    plan = await begin_or_resume(store, replace(LATER, model_version="v2"))
    assert plan == Plan(FIRST, resumed=True, catalog_changed=False, model_changed=True)


async def test_a_changed_database_is_in_the_plan_and_the_run_resumes(store):
    await begin_or_resume(store, FIRST)
    assert await begin_or_resume(store, replace(LATER, catalog_digest="c2")) == Plan(FIRST, True, True, False)


async def test_a_late_shard_joins(store):
    begun = await begin_or_resume(store, FIRST)
    await store.finish_shard(begun.generation, 0)
    late = await begin_or_resume(store, replace(LATER, made_at=FIRST.made_at + 1000 * HOUR))
    assert late.generation == FIRST
    assert await store.finish_shard(late.generation, 1)


@pytest.mark.parametrize(
    ("change", "named"), [({"settings_digest": "s2"}, "other settings"), ({"shards": 3}, "2 shards, not 3")]
)
async def test_other_settings_or_shards_are_refused_with_the_remedy(store, change, named):
    await begin_or_resume(store, FIRST)
    with pytest.raises(ConfigurationError, match=f"{named}.*--restart"):
        await begin_or_resume(store, replace(LATER, **change))
    assert store.begun == FIRST


async def test_a_restart_abandons_the_unfinished_generation(store):
    await begin_or_resume(store, FIRST)
    await abandon_unfinished(store)
    assert await begin_or_resume(store, replace(LATER, shards=3)) == Plan(
        replace(LATER, shards=3), False, False, False
    )


async def test_a_restart_where_nothing_is_unfinished_leaves_nothing_behind(store):
    await abandon_unfinished(store)
    assert store.calls == ["building"]


def test_ids_are_sixteen_random_bytes():
    assert len(new_generation_id()) == 16
    assert new_generation_id() != new_generation_id()

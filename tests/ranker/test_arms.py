"""Rankings of users in arms: which version scores, what the ranking names, and what is cached."""

import pytest

from animora_server.errors import DeviceFault, ModelNotResident
from animora_server.scoring.arms import Arms
from animora_server.settings import ExperimentSettings
from animora_server.types import CacheStatus, RankedCandidates, RankerName
from tests.ranker.rankings import THREE, FakeCache, query, ranker_over, rankings_of
from tests.support.arms import Fallbacks
from tests.support.catalogs import snapshot
from tests.support.models import FakeStateHolder

USERS = range(1, 41)  # the model knows them all


@pytest.fixture
def states() -> FakeStateHolder:
    """v1 is active and prefers late posts; v2 is loaded beside it and prefers early ones."""
    states = FakeStateHolder(snapshot(THREE))
    states.activate({10: 3.0, 20: 2.0, 30: 1.0}, "v2")
    states.activate({10: 1.0, 20: 2.0, 30: 3.0}, "v1")
    return states


def arms(fallbacks: Fallbacks | None = None, **of_arm: object) -> Arms:
    settings = ExperimentSettings.model_validate({"arms": {"canary": {"share": 50, **of_arm}}})
    return Arms(settings, fallbacks or Fallbacks())


def outcome(ranking: RankedCandidates) -> tuple[str, str, int]:
    return ranking.arm, ranking.model_version, ranking.post_ids.item(0)


async def test_each_query_of_a_batch_is_ranked_by_the_version_of_its_users_arm(states):
    canary = arms(model_version="v2")
    rankings = rankings_of(
        await ranker_over(states, arms=canary).rank_all([query(user=user) for user in USERS])
    )
    expected = {"canary": ("canary", "v2", 10), "control": ("control", "v1", 30)}
    assert [outcome(each) for each in rankings] == [expected[canary.of(user).name] for user in USERS]
    assert {each.arm for each in rankings} == {"canary", "control"}


async def test_without_experiments_a_ranking_names_no_arm(states):
    assert (await ranker_over(states).rank(query())).arm == ""


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_query_that_names_a_version_is_in_no_arm(states, version):
    ranker = ranker_over(states, arms=arms(share=100, model_version="v2"))
    ranking = await ranker.rank(query(model_version=version))
    assert (ranking.arm, ranking.model_version) == ("", version)
    with pytest.raises(ModelNotResident):
        await ranker.rank(query(model_version="v3"))


async def test_cached_scores_of_one_version_are_not_served_to_an_arm_with_another(states):
    cache = FakeCache()
    await ranker_over(states, cache).rank(query())
    ranker = ranker_over(states, cache, arms(share=100, model_version="v2"))
    first, again = await ranker.rank(query()), await ranker.rank(query())
    assert (first.cache, again.cache) == (CacheStatus.MISS, CacheStatus.HIT)
    assert outcome(first) == outcome(again) == ("canary", "v2", 10)


async def test_control_serves_while_the_version_of_the_arm_is_not_loaded(states):
    fallbacks = Fallbacks()
    ranker = ranker_over(states, arms=arms(fallbacks, share=100, model_version="v3"))
    assert outcome(await ranker.rank(query())) == ("control", "v1", 30)
    assert fallbacks.seen == [("canary", "loading")]


async def test_an_arm_that_is_switched_off_serves_no_further_query(states):
    canary = arms(share=100, model_version="v2")
    ranker = ranker_over(states, arms=canary)
    assert outcome(await ranker.rank(query())) == ("canary", "v2", 10)
    canary.disable("canary", "a test")
    assert outcome(await ranker.rank(query())) == ("control", "v1", 30)


async def test_the_heuristics_answer_for_a_failed_version_names_the_arm(states):
    states.resident["v2"].failure = DeviceFault("a test")
    ranking = await ranker_over(states, arms=arms(share=100, model_version="v2")).rank(query())
    assert (ranking.arm, ranking.ranker) == ("canary", RankerName.HEURISTIC)

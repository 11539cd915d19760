import numpy as np
import pytest

from animora_server.errors import GenerationGone, StoreError
from animora_server.precompute.retrying_store import RetryingGenerationStore
from tests.precompute.fakes import FakeGenerations
from tests.precompute.test_plan import FIRST, LATER


@pytest.fixture
def patient(store):
    return RetryingGenerationStore(store, delays=(0, 0))


async def call_all(generations):
    """What every method gives, in the order of a run."""
    return [
        await generations.begin(FIRST),
        await generations.intersect_posts(FIRST, np.arange(3)),
        await generations.are_stored(FIRST, [b"key"]),
        await generations.put(FIRST, []),
        await generations.finish_shard(FIRST, 0),
        await generations.building(),
        await generations.abandon(FIRST),
        await generations.begin(LATER),
        await generations.current(),
        await generations.retire(FIRST),
    ]


async def test_it_does_what_the_store_does(patient):
    assert await call_all(patient) == [FIRST, None, [False], 0, False, FIRST, None, LATER, None, 0]


async def test_a_call_that_fails_is_made_again(patient, store):
    await patient.begin(FIRST)
    store.failures = 2
    assert await patient.put(FIRST, []) == 0
    assert store.calls == ["begin", "put", "put", "put"]


async def test_what_goes_on_failing_is_an_error(patient, store):
    await patient.begin(FIRST)
    store.failures = 3
    with pytest.raises(StoreError, match="Redis is away"):
        await patient.put(FIRST, [])


async def test_a_store_that_has_never_answered_is_not_waited_for(patient, store):
    store.failures = 1
    with pytest.raises(StoreError, match="Redis is away"):
        await patient.begin(FIRST)
    assert store.calls == ["begin"]


async def test_a_generation_that_was_abandoned_is_not_waited_for():
    class Abandoned(FakeGenerations):
        async def finish_shard(self, generation, shard):
            self._called("finish_shard")
            raise GenerationGone("abandoned")

    store = Abandoned()
    patient = RetryingGenerationStore(store, delays=(0, 0))
    await patient.begin(FIRST)
    with pytest.raises(GenerationGone):
        await patient.finish_shard(FIRST, 0)
    assert store.calls == ["begin", "finish_shard"]

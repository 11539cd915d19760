import numpy as np
import pytest
import stamina
from structlog.testing import capture_logs

from animora_server.errors import GenerationGone, StoreError
from animora_server.precompute.retrying_store import RetryingGenerationStore
from tests.precompute.fakes import FakeGenerations
from tests.precompute.test_plan import FIRST, LATER

NO_PAUSES = stamina.AsyncRetryingCaller(attempts=3, wait_max=0.0)


@pytest.fixture
def patient(store):
    return RetryingGenerationStore(store, NO_PAUSES)


async def call_all(generations):
    """The result of each method, in the order of a run."""
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


async def test_calls_reach_the_store(patient):
    assert await call_all(patient) == [FIRST, None, [False], 0, False, FIRST, None, LATER, None, 0]


async def test_a_failed_call_is_retried(patient, store):
    await patient.begin(FIRST)
    store.failures = 2
    with capture_logs() as logs:
        assert await patient.put(FIRST, []) == 0
    assert store.calls == ["begin", "put", "put", "put"]
    assert [(entry["event"], entry["error"], entry["seconds"]) for entry in logs] == [
        ("Redis call failed; retrying", "Redis is away", 0.0)
    ] * 2


async def test_a_call_that_keeps_failing_raises(patient, store):
    await patient.begin(FIRST)
    store.failures = 3
    with pytest.raises(StoreError, match="Redis is away"):
        await patient.put(FIRST, [])


async def test_nothing_is_retried_before_the_first_answer(patient, store):
    store.failures = 1
    with pytest.raises(StoreError, match="Redis is away"):
        await patient.begin(FIRST)
    assert store.calls == ["begin"]


async def test_an_abandoned_generation_is_not_retried():
    class Abandoned(FakeGenerations):
        async def finish_shard(self, generation, shard):
            self._called("finish_shard")
            raise GenerationGone("abandoned")

    store = Abandoned()
    patient = RetryingGenerationStore(store, NO_PAUSES)
    await patient.begin(FIRST)
    with pytest.raises(GenerationGone):
        await patient.finish_shard(FIRST, 0)
    assert store.calls == ["begin", "finish_shard"]

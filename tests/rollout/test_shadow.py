"""The shadow version scores a sample of what the active version scores, while the device is idle."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np
import pytest

from animora_server.errors import DeviceFault, InvalidScores, NetworkFailed
from animora_server.rollout.shadow import MAX_WAITING, ShadowScorer, top_overlap
from animora_server.rollout.watched_model import WatchedModel
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.transforms import probabilities
from animora_server.settings import ShadowSettings
from tests.support.catalogs import snapshot
from tests.support.models import RowScoresModel
from tests.support.until import until

POSTS = snapshot({post: {} for post in range(100, 140)})
LOGITS = np.linspace(-2, 2, 40, dtype=np.float32)
ROWS = np.arange(40)


class Recorded:
    """ShadowCounts that keep what they receive."""

    def __init__(self):
        self.outcomes = Counter[str]()
        self.comparisons: list[tuple[float, float, float]] = []

    def sampled(self, outcome):
        self.outcomes[outcome] += 1

    def compared(self, *comparison):
        self.comparisons.append(comparison)


class Shadowed:
    """A scorer with its metrics; `idle` says whether the device is."""

    def __init__(self, share):
        self.metrics = Recorded()
        self.idle = True
        self.scorer = ShadowScorer(ShadowSettings(version="v2", share=share), self.metrics, lambda: self.idle)

    def state(self, *others: RowScoresModel, served: str = "v1") -> ServingState:
        active = RowScoresModel(LOGITS.tolist(), version=served)
        resident = {each.version: each for each in (active, *others)}
        return self.scorer.watch(ServingState(POSTS, active, resident))


@asynccontextmanager
async def shadowed(share=1.0):
    it = Shadowed(share)
    async with it.scorer:
        yield it


def shadow(**options) -> RowScoresModel:
    return RowScoresModel(**{"logits": LOGITS.tolist(), "version": "v2", **options})


async def ask(state: ServingState, *users: int) -> None:
    """Has the active version score a batch, as the ranker does."""
    assert state.active is not None
    rows = state.active.user_rows(np.array(users))
    sizes = np.full(len(users), len(ROWS))
    await state.active.score_all(rows, sizes, np.tile(ROWS, len(users)), 1e9)
    await asyncio.sleep(0)


async def test_a_sample_is_scored_and_compared():
    async with shadowed() as it:
        shifted = shadow(logits=(LOGITS + 1).tolist(), seconds=0.002)
        await ask(it.state(shifted), 7)
        await until(lambda: it.metrics.outcomes)
        assert it.metrics.outcomes == {"scored": 1}
        ((overlap, shift, seconds),) = it.metrics.comparisons
        assert (overlap, seconds) == (1.0, 0.002)
        expected = probabilities(LOGITS + 1).mean() - probabilities(LOGITS).mean()
        assert shift == pytest.approx(expected, abs=1e-6)
        assert shift > 0.1


async def test_the_share_of_the_requests_is_sampled():
    async with shadowed(share=0.1) as it:
        state = it.state(shadow())
        for _ in range(100):
            await ask(state, 7, 8)
            await until(lambda: it.metrics.outcomes.total() == it.metrics.outcomes["scored"])
        await until(lambda: it.metrics.outcomes.total() in (19, 20))  # ten binary tenths are less than 1


async def test_nothing_is_scored_while_the_device_is_busy():
    async with shadowed() as it:
        busy = shadow()
        state = it.state(busy)
        it.idle = False
        for _ in range(5):
            await ask(state, 7)
        assert it.metrics.outcomes == {"dropped": 5}
        assert busy.calls == 0


async def test_a_sample_is_dropped_if_the_device_has_become_busy_meanwhile():
    async with shadowed() as it:
        gate = asyncio.Event()
        state = it.state(shadow(gate=gate))
        for _ in range(3):
            await ask(state, 7)
        it.idle = False
        gate.set()
        await until(lambda: it.metrics.outcomes.total() == 3)
        assert it.metrics.outcomes == {"scored": 1, "dropped": 2}


async def test_samples_beyond_the_queue_are_dropped_and_requests_never_wait():
    async with shadowed() as it:
        gate = asyncio.Event()
        state = it.state(shadow(gate=gate))
        for _ in range(MAX_WAITING + 6):
            await ask(state, 7)
        assert it.metrics.outcomes == {"dropped": 5}  # one is being scored
        gate.set()
        await until(lambda: it.metrics.outcomes["scored"] == MAX_WAITING + 1)


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (NetworkFailed("raised"), "failed"),
        (DeviceFault("gone"), "failed"),
        (InvalidScores("NaN"), "invalid_scores"),
    ],
    ids=repr,
)
async def test_a_failing_shadow_is_counted_and_fails_no_request(failure, outcome):
    async with shadowed() as it:
        state = it.state(shadow(failure=failure))
        for _ in range(3):
            await ask(state, 7)
        await until(lambda: it.metrics.outcomes[outcome] == 3)
        assert it.metrics.comparisons == []


async def test_scores_that_are_not_finite_are_counted():
    async with shadowed() as it:
        await ask(it.state(shadow(logits=[float("nan")] * 40)), 7)
        await until(lambda: it.metrics.outcomes == {"invalid_scores": 1})


async def test_a_user_whom_the_shadow_does_not_know_is_counted():
    async with shadowed() as it:
        knows_nobody = shadow()
        knows_nobody.user_row = lambda user_id: 0  # type: ignore[method-assign]
        await ask(it.state(knows_nobody), 7)
        await until(lambda: it.metrics.outcomes == {"unknown_user": 1})


async def test_without_a_shadow_beside_the_active_version_nothing_is_watched():
    async with shadowed() as it:
        assert not isinstance(it.state().active, WatchedModel)
        assert not isinstance(it.state(served="v2").active, WatchedModel)
    async with shadowed(share=0.0) as off:
        assert not isinstance(off.state(shadow()).active, WatchedModel)


def test_the_overlap_is_that_of_the_ten_best_posts():
    assert top_overlap(LOGITS, LOGITS) == 1.0
    assert top_overlap(LOGITS, -LOGITS) == 0.0
    assert top_overlap(LOGITS, np.roll(LOGITS, 5)) == 0.5
    assert top_overlap(LOGITS[:4], -LOGITS[:4]) == 1.0  # there are no others

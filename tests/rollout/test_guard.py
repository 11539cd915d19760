"""The guard watches a newly activated version, and reports the band that it leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np

from animora_server.errors import DeadlineUnreachable, DeviceFault, InvalidScores, NetworkFailed, Overloaded
from animora_server.rollout.guard import COMPARE_INTERVAL, RollbackGuard
from animora_server.rollout.trial import MIN_COMPARISONS, Breach
from animora_server.rollout.watched_model import WatchedModel
from animora_server.rollout_names import Band
from animora_server.scoring.arms import Arms
from animora_server.scoring.serving_state import ServingState
from animora_server.settings import ExperimentSettings, RollbackSettings
from tests.support.arms import Fallbacks
from tests.support.catalogs import snapshot
from tests.support.clocks import ManualClock
from tests.support.models import RowScoresModel
from tests.support.until import until

POSTS = snapshot({post: {} for post in range(100, 140)})
LOGITS = np.linspace(-2, 2, 40).tolist()
ROWS = np.arange(40)


@dataclass
class Guarded:
    """A guard, its clock, and what it has reported."""

    bands: RollbackSettings
    clock: ManualClock = field(default_factory=ManualClock)
    breaches: list[tuple[str, str | None, Breach]] = field(default_factory=list)
    ended: int = 0
    counter: Fallbacks = field(default_factory=Fallbacks)

    def __post_init__(self):
        self.guard = RollbackGuard(self.bands, self.end, self.clock)
        self.guard.on_breach = lambda *breach: self.breaches.append(breach)

    def end(self):
        self.ended += 1

    def activate(self, model: RowScoresModel, *others: RowScoresModel) -> ServingState:
        """The serving state of a new active version."""
        resident = {each.version: each for each in (*others, model)}
        return self.guard.watch(ServingState(POSTS, model, resident))

    @property
    def bands_left(self) -> list[Band]:
        return [breach.band for _, _, breach in self.breaches]


@asynccontextmanager
async def guarded(**bands: float) -> AsyncIterator[Guarded]:
    it = Guarded(RollbackSettings.model_validate({"min_requests": 20, **bands}))
    async with it.guard:
        yield it


def model(version: str, **options) -> RowScoresModel:
    return RowScoresModel(version=version, **{"logits": LOGITS, **options})


async def ask(state: ServingState, user: int = 7) -> None:
    """Has the active version score a request, as the ranker does."""
    assert state.active is not None
    rows = state.active.user_rows(np.array([user]))
    with suppress(Overloaded, DeadlineUnreachable):
        future = state.active.score_all(rows, np.array([len(ROWS)]), ROWS, 1e9)
        await asyncio.gather(future, return_exceptions=True)
    await asyncio.sleep(0)


async def ask_until(it: Guarded, state: ServingState, holds) -> None:
    async def compared() -> bool:
        it.clock.now += COMPARE_INTERVAL
        await ask(state)
        return bool(holds())

    await until(compared)


async def test_a_version_that_fails_where_the_one_before_does_not_leaves_the_band_of_errors():
    async with guarded() as it:
        good = model("v1")
        it.activate(good)
        state = it.activate(model("v2", failure=NetworkFailed("raised")), good)
        await ask_until(it, state, lambda: it.breaches)
        ((version, previous, breach),) = it.breaches
    assert (version, previous, breach.band) == ("v2", "v1", Band.ERRORS)


async def test_a_version_that_fails_only_where_the_one_before_fails_too_stays():
    async with guarded() as it:
        before = model("v1", failure=InvalidScores("NaN"))
        it.activate(before)
        state = it.activate(model("v2", failure=NetworkFailed("raised")), before)
        for _ in range(50):
            await ask(state)
        await until(lambda: before.calls == 50)
        assert it.breaches == []


async def test_scores_that_are_not_finite_leave_their_band():
    async with guarded() as it:
        it.activate(model("v1"))
        state = it.activate(model("v2", logits=[float("nan")] * 40), model("v1"))
        await ask_until(it, state, lambda: it.breaches)
    assert it.bands_left == [Band.INVALID_SCORES]


async def test_a_failure_counts_at_once_where_no_version_before_is_resident():
    async with guarded() as it:
        state = it.activate(model("v1", failure=NetworkFailed("raised")))
        await ask(state)
        assert it.breaches == []  # 1 of 20 is the band itself
        await ask(state)
        ((version, previous, _),) = it.breaches
    assert (version, previous) == ("v1", None)


async def test_the_failure_of_a_batch_counts_by_the_requests_that_fail_alone():
    async with guarded() as it:
        state = it.activate(model("v1", failure=NetworkFailed("raised")))
        assert state.active is not None
        rows = state.active.user_rows(np.array([7, 8]))
        for _ in range(50):
            future = state.active.score_all(rows, np.array([20, 20]), ROWS, 1e9)
            await asyncio.gather(future, return_exceptions=True)
        assert it.breaches == []


async def test_a_device_that_fails_is_no_fault_of_the_version():
    async with guarded() as it:
        state = it.activate(model("v1", failure=DeviceFault("gone")))
        for _ in range(50):
            await ask(state)
    assert it.breaches == []


async def test_late_requests_count_once_the_version_is_found_to_be_slower():
    for late in (DeadlineUnreachable(), Overloaded()):
        for seconds, bands in ((0.001, []), (0.01, [Band.ERRORS])):
            async with guarded() as it:
                before = model("v1", seconds=0.001)
                it.activate(before)
                slow = Late("v2", late, seconds)
                state = it.activate(slow, before)
                await ask_until(it, state, lambda: it.breaches or slow.timed > MIN_COMPARISONS + 2)  # noqa: B023
            assert it.bands_left == bands


class Late(RowScoresModel):
    """Scores background work, and is too late for requests."""

    def __init__(self, version: str, late: Exception, seconds: float) -> None:
        super().__init__(LOGITS, version=version, seconds=seconds)
        self._late = late
        self.timed = 0

    def score_all(self, user_rows, sizes, rows, deadline):
        raise self._late

    async def score_timed(self, user_row, rows):
        self.timed += 1
        return await super().score_timed(user_row, rows)


async def test_a_slower_version_leaves_its_band():
    async with guarded(max_slowdown=2.0) as it:
        before = model("v1", seconds=0.001)
        it.activate(before)
        state = it.activate(model("v2", seconds=0.003), before)
        await ask_until(it, state, lambda: it.breaches)
    assert it.bands_left == [Band.SLOWDOWN]


async def test_shifted_scores_leave_their_band():
    async with guarded(max_score_shift=0.25) as it:
        before = model("v1")
        it.activate(before)
        state = it.activate(model("v2", logits=[each + 2 for each in LOGITS]), before)
        await ask_until(it, state, lambda: it.breaches)
    assert it.bands_left == [Band.SCORE_SHIFT]


async def test_nothing_is_compared_unless_a_band_needs_it():
    async with guarded() as it:
        before = model("v1")
        it.activate(before)
        state = it.activate(model("v2"), before)
        for _ in range(50):
            it.clock.now += COMPARE_INTERVAL
            await ask(state)
        assert before.calls == 0


async def test_a_version_is_watched_for_the_window_only():
    async with guarded(window=60) as it:
        state = it.activate(model("v1", failure=NetworkFailed("raised")))
        assert isinstance(state.active, WatchedModel)
        it.clock.now += 60
        await ask(state)
        assert it.ended == 1
        unwatched = it.activate(model("v1"))
        assert not isinstance(unwatched.active, WatchedModel)
        for _ in range(50):
            await ask(state)
    assert it.breaches == []
    assert it.ended == 1


async def test_a_new_serving_state_of_a_version_continues_its_trial():
    async with guarded() as it:
        failing = model("v1", failure=NetworkFailed("raised"))
        for _ in range(2):
            await ask(it.activate(failing))
    assert it.bands_left == [Band.ERRORS]


async def test_a_version_that_the_server_went_back_to_is_not_on_trial_and_the_next_one_is_compared_with_it():
    async with guarded() as it:
        good, bad = model("v1"), model("v2", failure=NetworkFailed("raised"))
        it.activate(good)
        state = it.activate(bad, good)
        await ask_until(it, state, lambda: it.breaches)
        back = it.activate(good)
        assert not isinstance(back.active, WatchedModel)
        await ask(state)  # a request that still uses the version that was rolled back
        state = it.activate(model("v3", failure=NetworkFailed("raised")), good)
        await ask_until(it, state, lambda: len(it.breaches) > 1)
    assert [(version, previous) for version, previous, _ in it.breaches] == [("v2", "v1"), ("v3", "v1")]


async def test_a_version_that_was_given_up_and_still_serves_is_reported_once():
    async with guarded() as it:
        failing = model("v1", failure=NetworkFailed("raised"))
        for _ in range(50):
            await ask(it.activate(failing))
        assert len(it.breaches) == 1
        state = it.activate(model("v0", failure=NetworkFailed("raised")), failing)
        for _ in range(2):
            await ask(state)
    assert [(version, previous) for version, previous, _ in it.breaches] == [("v1", None), ("v0", None)]


async def test_without_a_window_no_model_is_watched():
    async with guarded(window=0) as it:
        state = it.activate(model("v1"))
        assert not isinstance(state.active, WatchedModel)


def experiment(guarded_by: Guarded, **versions: str) -> Arms:
    arms = {name: {"share": 10, "model_version": version} for name, version in versions.items()}
    for number, arm in enumerate(arms.values()):
        arm["offset"] = 10 * number
    guarded_by.counter = Fallbacks()
    guarded_by.guard.arms = Arms(ExperimentSettings.model_validate({"arms": arms}), guarded_by.counter)
    return guarded_by.guard.arms


async def ask_arm(state: ServingState, version: str) -> None:
    await ask(replace(state, active=state.resident[version]))


async def test_the_arms_of_a_version_that_leaves_a_band_are_switched_off_and_the_active_version_stays():
    async with guarded() as it:
        arms = experiment(it, canary="v2", again="v2", other="v3")
        good = model("v1")
        others = model("v2", failure=NetworkFailed("raised")), model("v3")
        state = it.activate(good, *others)

        async def compared() -> bool:
            await ask_arm(state, "v2")
            return bool(arms.disabled)

        await until(compared)
        assert list(arms.disabled) == ["canary", "again"]
        assert arms.disabled["canary"].startswith("errors: ")
        assert it.counter.left == [("canary", "errors"), ("again", "errors")]
        assert it.breaches == []
        state = it.activate(good, *others)
        assert [isinstance(state.resident[version], WatchedModel) for version in ("v1", "v2", "v3")] == [
            True,
            False,
            True,
        ]


async def test_the_version_of_an_arm_is_watched_in_one_window_after_the_other():
    async with guarded(window=60) as it:
        arms = experiment(it, canary="v2")
        failing = model("v2", failure=NetworkFailed("raised"))
        knows_nobody = model("v1")
        knows_nobody.user_row = lambda user_id: 0  # type: ignore[method-assign]  # so failures count at once
        for _ in range(3):
            state = it.activate(knows_nobody, failing)
            await ask_arm(state, "v2")
            it.clock.now += 60
            await ask_arm(state, "v2")
        assert not arms.disabled
        state = it.activate(knows_nobody, failing)
        for _ in range(2):
            await ask_arm(state, "v2")
        assert list(arms.disabled) == ["canary"]

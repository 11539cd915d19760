"""Watches a newly activated version, and reports when it must be rolled back."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from animora_server.background import LoopOwner
from animora_server.errors import (
    DeadlineUnreachable,
    InvalidScores,
    NetworkFailed,
    Overloaded,
    is_device_fault,
)
from animora_server.rollout.sample_queue import SampleQueue
from animora_server.rollout.trial import Breach, VersionTrial
from animora_server.rollout.watched_model import ScoredWork, WatchedModel
from animora_server.rollout_names import Band
from animora_server.scoring.arms import Arms
from animora_server.scoring.protocols import ScoringModel
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.transforms import are_finite, impute_featureless
from animora_server.settings import RollbackSettings
from animora_server.types import FloatArray, IntArray

log = structlog.get_logger(__name__)

LATE = (Overloaded, DeadlineUnreachable)
MAX_WAITING = 64  # failed requests that wait to be scored by the earlier version
COMPARE_INTERVAL = 0.02  # seconds between two comparisons, at least: each costs the device two short turns
MAX_COMPARED_POSTS = 512  # of a request, evenly spaced


@dataclass(frozen=True, slots=True)
class _Request:
    """A request of one user that both versions are to score.

    Attributes:
        observer: Who asks.
        user_id: The user.
        rows: int64 (m), the posts' catalog rows.
        failed: The band of the new version's failure; None to compare times and scores.
    """

    observer: "_TrialObserver"
    user_id: int
    rows: IntArray
    failed: Band | None


class RollbackGuard(LoopOwner):
    """Watches each newly activated version for a window, and reports the first band that it leaves.

    Failures are seen in the requests themselves. A failed request is scored by the version before as well: it
    counts only if that one has scores. Times and scores are compared on a sample of requests, which both
    versions score in background turns, one after the other. Nothing is watched after the window. Versions of
    arms are watched as long as their arms are on; where one leaves a band, its arms are switched off.

    Args:
        bands: The section `rollback`.
        on_end: Called when a version has stayed in its bands for the window: it need not be watched any more.
        clock: Seconds; never steps back.

    Attributes:
        on_breach: Called with the new version, the one before (None if there was none), and the band.
        arms: The arms whose versions are watched too, one window after the other, beside the active version;
            None without experiments.
    """

    def __init__(
        self,
        bands: RollbackSettings,
        on_end: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bands = bands
        self.arms: Arms | None = None
        self.on_breach: Callable[[str, str | None, Breach], None] = _ignore
        self._on_end = on_end
        self._clock = clock
        self._version: str | None = None
        self._previous: str | None = None
        self._given_up: str | None = None  # the version that left a band, while it is still active
        self._trial: VersionTrial | None = None
        self._arm_trials: dict[str, VersionTrial] = {}  # by version
        self._compare_at = -math.inf
        self._requests: SampleQueue[_Request] = SampleQueue("model-comparison", self._process, MAX_WAITING)
        self.loop = self._requests.loop

    @property
    def slowdown(self) -> float:
        """The slowdown of the version that is watched; NaN where none is, or before the first comparison."""
        return math.nan if self._trial is None else self._trial.slowdown

    @property
    def score_shift(self) -> float:
        """The score shift of the version that is watched; NaN where none is, or there are too few scores."""
        return math.nan if self._trial is None else self._trial.score_shift

    def watch(self, state: ServingState) -> ServingState:
        """The serving state with those models watched whose versions are on trial, as a new active one is."""
        active = state.active
        if not self._bands.window or active is None or not active.version:
            return state
        if active.version != self._version:
            self._begin(active.version)
        watched: dict[str, WatchedModel] = {}
        if self._trial is not None:
            earlier = state.resident.get(self._previous or "")
            watched[active.version] = self._watched(active, self._trial, earlier)
        for version in () if self.arms is None else self.arms.enabled_versions:
            model = state.resident.get(version)
            if model is not None and version != active.version:
                trial = self._arm_trials.setdefault(version, VersionTrial(self._bands, self._clock()))
                watched[version] = self._watched(model, trial, active)
        return state.with_models(watched) if watched else state

    def _watched(
        self, model: ScoringModel, trial: VersionTrial, earlier: ScoringModel | None
    ) -> WatchedModel:
        return WatchedModel(model, _TrialObserver(self, trial, model, earlier))

    def _begin(self, version: str) -> None:
        """Begins the trial of a newly active version, unless the server has just gone back to it."""
        before, earlier, given_up = self._version, self._previous, self._given_up
        self._version, self._given_up = version, None
        self._previous = None if before == given_up else before
        went_back = before == given_up and version == earlier
        self._trial = None if went_back else VersionTrial(self._bands, self._clock())

    def is_current(self, trial: VersionTrial) -> bool:
        """Whether a trial goes on. Ends it if its window has passed; an arm's version begins another one."""
        arm_version = self._arm_version(trial)
        if trial is not self._trial and arm_version is None:
            return False
        if not trial.is_over(self._clock()):
            return True
        if arm_version is not None:
            del self._arm_trials[arm_version]
        else:
            self._trial = None
            log.info("model version stays", version=self._version, previous=self._previous)
        self._on_end()
        return False

    def judge(self, trial: VersionTrial) -> None:
        """Ends a trial with a breach, if there is one."""
        breach = trial.breach()
        if breach is None:
            return
        arm_version = self._arm_version(trial)
        if arm_version is not None and self.arms is not None:
            del self._arm_trials[arm_version]
            self.arms.disable_version(arm_version, breach.band, breach.detail)
        elif trial is self._trial and self._version is not None:
            self._given_up, self._trial = self._version, None
            self.on_breach(self._version, self._previous, breach)

    def _arm_version(self, trial: VersionTrial) -> str | None:
        """The version of arms that is on a trial; None for another trial, or for one that has ended."""
        return next((version for version, each in self._arm_trials.items() if each is trial), None)

    def may_compare(self) -> bool:
        """Whether another comparison of times and scores may begin."""
        now = self._clock()
        if self._requests or now < self._compare_at:
            return False
        self._compare_at = now + COMPARE_INTERVAL
        return True

    def offer(self, request: _Request) -> None:
        """Queues a request for both versions; one too many is dropped, since others stand for it."""
        self._requests.offer(request)

    @property
    def compares_all(self) -> bool:
        """Whether a sample of all requests is compared, not only those that failed."""
        return bool(self._bands.max_slowdown or self._bands.max_score_shift)

    async def _process(self, request: _Request) -> None:
        await request.observer.process(request)


@dataclass(frozen=True, slots=True)
class _TrialObserver:
    """Observes a version on trial. See ScoreObserver.

    Attributes:
        guard: The guard.
        trial: The trial.
        model: The version, in one serving state.
        earlier: The version before, in the same state; None if it is not resident.
    """

    guard: RollbackGuard
    trial: VersionTrial
    model: ScoringModel
    earlier: ScoringModel | None

    def scored(self, work: ScoredWork, values: FloatArray) -> None:
        """See ScoreObserver."""
        if not self.guard.is_current(self.trial):
            return
        if are_finite(values):
            self.trial.scored(work.users)
            if self.guard.compares_all:
                self._offer_comparison(work)
        else:
            self._fail(work, Band.INVALID_SCORES)

    def failed(self, work: ScoredWork, error: BaseException) -> None:
        """See ScoreObserver."""
        if is_device_fault(error) or not self.guard.is_current(self.trial):
            return
        if isinstance(error, LATE):
            self.trial.late(work.users)
            self._offer_comparison(work)
            self.guard.judge(self.trial)
        elif isinstance(error, InvalidScores) and not isinstance(error, NetworkFailed):
            self._fail(work, Band.INVALID_SCORES)
        else:
            self._fail(work, Band.ERRORS)

    async def process(self, request: _Request) -> None:
        """Has both versions score a request, and judges."""
        if not self.guard.is_current(self.trial):
            return
        if request.failed is not None:
            if await self._score(self.earlier, request) is None:
                self.trial.scored(1)  # the version before fails as well
            else:
                self.trial.failed(request.failed)
        else:
            await self._compare(request)
        self.guard.judge(self.trial)

    async def _compare(self, request: _Request) -> None:
        in_turn = [self.model, self.earlier]
        swapped = random.random() < 0.5  # whatever it costs to be the first, both pay it
        scored = [await self._score(model, request) for model in (in_turn[::-1] if swapped else in_turn)]
        new, earlier = scored[::-1] if swapped else scored
        if new is not None and earlier is not None:
            self.trial.timed(new[1], earlier[1])
            self.trial.compared(new[0], earlier[0])

    @staticmethod
    async def _score(model: ScoringModel | None, request: _Request) -> tuple[FloatArray, float] | None:
        """The finite logits and seconds of a model; None if it has none."""
        user_row = 0 if model is None else model.user_row(request.user_id)
        if model is None or not user_row:
            return None
        try:
            values, seconds = await model.score_timed(user_row, request.rows)
            return impute_featureless(values, model.has_features(request.rows)), seconds
        except InvalidScores:
            return None

    def _fail(self, work: ScoredWork, band: Band) -> None:
        """Records a failure, after the version before has scored the request too, if it can."""
        if work.users > 1:
            return  # each of them is tried again alone
        user_id = work.user_id(0)
        if self.earlier is None or user_id is None or not self.earlier.user_row(user_id):
            self.trial.failed(band)
            self.guard.judge(self.trial)
        else:
            self.guard.offer(_Request(self, user_id, _spaced(work.rows), band))

    def _offer_comparison(self, work: ScoredWork) -> None:
        if self.earlier is None or not self.guard.may_compare():
            return
        position = random.randrange(work.users)
        user_id, rows = work.user_id(position), work.rows[work.posts(position)]
        if user_id is not None and len(rows):
            self.guard.offer(_Request(self, user_id, _spaced(rows), None))


def _spaced(rows: IntArray) -> IntArray:
    return rows[:: -(-len(rows) // MAX_COMPARED_POSTS) or 1]


def _ignore(version: str, previous: str | None, breach: Breach) -> None:
    """Nobody is there to roll back."""

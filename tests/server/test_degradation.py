"""The ladder of degradation has a step for every condition."""

from animora_server.degradation import (
    FALLBACKS,
    REFUSALS,
    SCORES,
    STORED_TIMELINES,
    Freshness,
    Step,
    degraded_reason,
    fallback_for,
    ladder,
)
from animora_server.errors import (
    AnimoraError,
    CallError,
    DeviceFault,
    InvalidRequest,
    ModelServiceError,
    NetworkFailed,
    OutOfDeviceMemory,
    PermissionDenied,
    ScoringFailed,
    Unauthenticated,
)
from animora_server.observability.metrics import CODES
from animora_server.service.status import STATUSES
from animora_server.types import CacheStatus, DegradedReason

CALLERS_FAULTS = {Unauthenticated, PermissionDenied, InvalidRequest}  # no step down: a correct call succeeds


def subclasses(kind: type[AnimoraError]) -> set[type[AnimoraError]]:
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_failure_of_the_model_has_a_fallback():
    for failure in subclasses(ScoringFailed) - {ScoringFailed}:
        raised = failure()
        assert isinstance(raised, ScoringFailed)
        assert isinstance(degraded_reason(raised), DegradedReason)


def test_every_reason_has_one_failure():
    assert sorted(fallback.reason for fallback in FALLBACKS.values()) == sorted(DegradedReason)


def test_a_special_failure_has_the_reason_of_its_kind():
    assert fallback_for(OutOfDeviceMemory()) is FALLBACKS[DeviceFault]
    assert fallback_for(NetworkFailed()).reason is DegradedReason.INVALID_SCORES


def test_every_error_of_a_call_is_a_refusal_or_the_callers_fault():
    of_models = subclasses(ModelServiceError)
    of_rankings = subclasses(CallError) - {CallError} - of_models
    assert of_rankings == CALLERS_FAULTS | set(REFUSALS)
    assert set(STATUSES) == of_rankings | of_models - {ModelServiceError}


def test_a_refusal_has_the_status_that_callers_get():
    for error, refusal in REFUSALS.items():
        code, reason = STATUSES[error]
        assert (code.name, reason) == (refusal.code, refusal.reason)
        assert refusal.code in CODES


def test_every_freshness_and_every_source_of_scores_has_a_step():
    assert set(STORED_TIMELINES) == set(Freshness)
    assert set(SCORES) == set(CacheStatus) - {CacheStatus.STALE}, "scores are never served stale"


def test_the_ladder_goes_down():
    steps = [row[0] for row in ladder()]
    assert steps == sorted(steps, key=list(Step).index)
    assert set(steps) == set(Step)

"""What is recorded of each arm: answers, errors that are the arm's, and the arm in log lines."""

import time

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from animora_server.errors import DeadlineExpired, InvalidRequest, ModelNotResident, TooManyRequests
from animora_server.observability.metrics import ArmMetrics
from animora_server.scoring.arms import Arms
from animora_server.service.arm_outcomes import ArmOutcomes
from animora_server.settings import ExperimentSettings
from animora_server.types import DegradedReason, RankedCandidates, RankerName


class Recorded:
    """Outcomes of an experiment whose arm has every user."""

    def __init__(self):
        self.registry = CollectorRegistry()
        metrics = ArmMetrics(self.registry, ("Rank", "BatchRank"), ["canary"])
        arms = Arms(ExperimentSettings.model_validate({"arms": {"canary": {"share": 100}}}), metrics)
        self.outcomes = ArmOutcomes(arms, metrics)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"animora_arm_{name}", labels) or 0

    def requests(self, outcome: str, arm: str = "canary") -> float:
        return self.value("requests_total", method="Rank", arm=arm, outcome=outcome)


@pytest.fixture
def recorded() -> Recorded:
    structlog.contextvars.clear_contextvars()
    return Recorded()


def ranking(arm: str, ranker: RankerName = RankerName.NEUCF, **fields) -> RankedCandidates:
    return RankedCandidates(np.array([1, 2]), np.array([0.75, 0.5], np.float32), ranker, arm=arm, **fields)


def test_answers_count_under_the_arm_that_they_name(recorded):
    fallback = ranking("canary", RankerName.HEURISTIC, degraded_reason=DegradedReason.INVALID_SCORES)
    answers = [ranking("canary"), ranking("canary"), ranking("control"), fallback, ranking("")]
    recorded.outcomes.served("Rank", answers, time.perf_counter())
    assert (recorded.requests("ok"), recorded.requests("ok", "control")) == (2, 1)
    assert recorded.requests("invalid_scores") == 1
    assert recorded.value("best_score_count", arm="canary") == 2
    assert recorded.value("best_score_sum", arm="canary") == 1.5


def test_a_call_counts_once_for_each_arm_in_it(recorded):
    recorded.outcomes.served("BatchRank", [ranking("canary")] * 3 + [ranking("control")], time.perf_counter())
    seconds = {
        arm: recorded.value("seconds_count", method="BatchRank", arm=arm) for arm in ("canary", "control")
    }
    assert seconds == {"canary": 1, "control": 1}


def test_an_error_of_the_server_counts_for_the_arm_of_the_user(recorded):
    for error in (DeadlineExpired(), RuntimeError("a bug")):
        recorded.outcomes.failed("Rank", 7, error)
    assert recorded.requests("error") == 2


@pytest.mark.parametrize(
    "error", [InvalidRequest("post_ids", "is empty"), ModelNotResident(), TooManyRequests(1.0)]
)
def test_an_error_of_the_caller_or_a_refusal_does_not_count(recorded, error):
    recorded.outcomes.failed("Rank", 7, error)
    assert recorded.requests("error") == 0


def test_log_lines_of_a_failed_call_name_the_arm(recorded):
    recorded.outcomes.failed("Rank", 7, DeadlineExpired())
    assert structlog.contextvars.get_contextvars() == {"arm": "canary"}
    structlog.contextvars.clear_contextvars()

"""Records what each arm of the experiments answers: outcomes, times and scores."""

import time
from collections.abc import Iterable

import grpc
import structlog

from animora_server.errors import CallError
from animora_server.observability.metrics import ArmMetrics
from animora_server.scoring.arms import Arms
from animora_server.service.calls import CALLER_ERROR_CODES
from animora_server.service.status import code_of
from animora_server.types import PageResult, RankedCandidates, RankerName

NOT_OF_AN_ARM = (*CALLER_ERROR_CODES, grpc.StatusCode.RESOURCE_EXHAUSTED)


class ArmOutcomes:
    """Records each answer under the arm that it names, and each error under the arm of its user.

    Args:
        arms: The arms.
        metrics: The metrics of the arms.
    """

    def __init__(self, arms: Arms, metrics: ArmMetrics) -> None:
        self._arms = arms
        self._metrics = metrics

    def served(self, method: str, answers: Iterable[RankedCandidates | PageResult], began: float) -> None:
        """Records the answers of one call, which began at a `time.perf_counter()`."""
        seconds = time.perf_counter() - began
        served = set()
        for answer in answers:
            if not answer.arm:
                continue
            reason = answer.degraded_reason
            self._metrics.requests[method, answer.arm, "ok" if reason is None else reason.value].inc()
            if answer.arm not in served:
                served.add(answer.arm)
                self._metrics.seconds[method, answer.arm].observe(seconds)
            if answer.ranker is RankerName.NEUCF and len(answer.scores):
                self._metrics.best_score[answer.arm].observe(answer.scores.item(0))

    def failed(self, method: str, user_id: int, error: BaseException) -> None:
        """Records an error of a query that names no version, and adds the arm to the call's log lines.

        Errors that the caller has to fix do not count, nor does the refusal of a call by admission.
        """
        arm = self._arms.of(user_id).name
        structlog.contextvars.bind_contextvars(arm=arm)
        if not (isinstance(error, CallError) and code_of(error) in NOT_OF_AN_ARM):
            self._metrics.requests[method, arm, "error"].inc()

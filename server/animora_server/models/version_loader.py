"""Reads versions and hands them on; a version that fails is refused, and perhaps tried again later."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from animora_artifact import (
    Artifact,
    ArtifactRejected,
    Manifest,
    StoreUnavailable,
    VersionNotFound,
    VersionSource,
)
from animora_artifact.errors import RejectionReason
from animora_server.background import Backoff
from animora_server.errors import ScoringFailed
from animora_server.observability.metrics import ModelMetrics

log = structlog.get_logger(__name__)

MAX_RETRY_DELAY = 60.0  # seconds between two attempts to load a version, at most


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A version that could not be loaded.

    Attributes:
        reason: One of ModelMetrics.REASONS; None if the store could not be read.
        detail: The details, for people.
        attempts: The number of failed attempts.
        retry_at: The time of the next attempt on the loader's clock; infinite for none.
    """

    reason: str | None
    detail: str
    attempts: int
    retry_at: float


class VersionLoader:
    """Reads versions of a store, and remembers which of them failed and when they may be tried again.

    Args:
        store: The model store.
        poll_interval: Seconds until the first retry.
        metrics: Counts rejections and store errors.
        clock: Returns seconds; never steps back.
    """

    def __init__(
        self,
        store: VersionSource,
        poll_interval: float,
        metrics: ModelMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._retry = Backoff(first=poll_interval, longest=max(poll_interval, MAX_RETRY_DELAY))
        self._refusals: dict[str, RefusedVersion] = {}

    def is_due(self, version: str) -> bool:
        """Whether a version may be tried now."""
        refusal = self._refusals.get(version)
        return refusal is None or refusal.retry_at <= self._clock()

    @property
    def refusals(self) -> Mapping[str, RefusedVersion]:
        """The last failures of versions that are not loaded, by version."""
        return self._refusals

    def retry(self, version: str) -> None:
        """Makes a version due, whatever the pause after its last failure."""
        self._refusals.pop(version, None)

    def is_refused(self, version: str) -> bool:
        """Whether the last attempt failed."""
        return version in self._refusals

    def refuse(self, version: str, reason: str, detail: str) -> None:
        """Refuses a version until `retry` or `forget`."""
        self._refusals[version] = RefusedVersion(reason, detail, attempts=1, retry_at=math.inf)

    def forget(self) -> None:
        """Forgets the failed attempts."""
        self._refusals = {}

    async def load(self, version: str, use: Callable[[Artifact], Awaitable[None]]) -> Manifest | None:
        """Reads a version and hands it to `use`. Returns its manifest; None after a failure, which is logged.

        Args:
            version: The version.
            use: Loads it onto the device. May raise ArtifactRejected or ScoringFailed.
        """
        try:
            artifact = await asyncio.to_thread(self._store.read, version)
            await use(artifact)
        except (StoreUnavailable, OSError) as error:
            self._metrics.store_errors.inc()
            log.warning("model version not read; retrying", version=version, error=str(error))
            self._postpone(version, None, str(error))
        except VersionNotFound as error:
            self._reject(version, "not_found", str(error))
        except ArtifactRejected as error:
            self._reject(version, error.reason.value, error.detail)
            if error.reason is not RejectionReason.DIMENSIONS:  # the catalog's widths may change
                self.refuse(version, error.reason.value, error.detail)
        except ScoringFailed as error:
            self._reject(version, "device", str(error))
        except MemoryError:
            self._reject(version, RejectionReason.MEMORY.value, "there is not enough memory to read it")
        except Exception:  # the edge of the loop: a bug must not keep later versions from being loaded
            log.exception("model version not loaded", version=version)
            self._reject(version, "unexpected", "an unexpected error, logged with its traceback")
        else:
            self._refusals.pop(version, None)
            return artifact.manifest
        return None

    def _reject(self, version: str, reason: str, detail: str) -> None:
        self._metrics.rejections[reason].inc()
        log.error("model version refused", version=version, reason=reason, detail=detail)
        self._postpone(version, reason, detail)

    def _postpone(self, version: str, reason: str | None, detail: str) -> None:
        """Schedules the next attempt, after a pause that grows with each failure."""
        previous = self._refusals.get(version)
        attempts = 1 if previous is None else previous.attempts + 1
        retry_at = self._clock() + self._retry.delay(attempts)
        self._refusals[version] = RefusedVersion(reason, detail, attempts, retry_at)

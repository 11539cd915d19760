"""The server's one tree of errors; `service.status` maps it to gRPC status codes.

AnimoraError
├── CallError                     what a caller is told
│   ├── InvalidRequest            a field is wrong
│   ├── Refused                   too much in flight
│   ├── DeadlineExpired          no answer fits into the time that is left
│   ├── ModelNotResident          the version asked for is not loaded
│   ├── RankedTimelineGone              the list that a page token pins is no longer there
│   └── CatalogUnavailable        not loaded yet, or its blocks are too old to be trusted
├── ScoringFailed                 the model gave no scores; the heuristic answers
│   ├── ModelUnavailable          none is loaded
│   ├── Overloaded                the scorer's queue is full
│   ├── DeadlineUnreachable                   the deadline cannot be met
│   ├── DeviceFault               the device failed
│   │   └── OutOfDeviceMemory     the batch did not fit
│   └── InvalidScores             the model gives other than one finite score for each pair
├── StoreError                    PostgreSQL, or Redis where it is not just a cache, did not answer
├── ProtocolError                 what a worker and a shared device sent each other cannot be read
├── GenerationGone                the generation that a run builds is not being built any more
└── ConfigurationError            an option is wrong, or what it asks for cannot be had
"""


class AnimoraError(Exception):
    """The root."""


class CallError(AnimoraError):
    """Something a caller is told; the text is safe to send."""


class InvalidRequest(CallError):
    """A field is wrong."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class TooManyRequests(CallError):
    """Too much in flight; come back after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many calls in flight")
        self.retry_after = retry_after


class DeadlineExpired(CallError):
    """No answer fits into the time that is left."""

    def __init__(self) -> None:
        super().__init__("the deadline leaves no time for an answer")


class ModelNotResident(CallError):
    """The version asked for is not loaded."""

    def __init__(self) -> None:
        super().__init__("model_version: that version is not resident; leave it empty for the active one")


class RankedTimelineGone(CallError):
    """The list that a page token pins is no longer there."""

    def __init__(self) -> None:
        super().__init__(
            "page_token: its list is gone; start over without a token, and exclude what was shown"
        )


class CatalogUnavailable(CallError):
    """Posts cannot be ranked: the catalog is not loaded, or its blocks are too old."""


class ScoringFailed(AnimoraError):
    """The model gave no scores."""


class ModelUnavailable(ScoringFailed):
    """No model is loaded."""


class Overloaded(ScoringFailed):
    """The scorer's queue is full."""


class DeadlineUnreachable(ScoringFailed):
    """The scorer cannot answer before the deadline."""


class DeviceFault(ScoringFailed):
    """The device failed."""


class OutOfDeviceMemory(DeviceFault):
    """The batch did not fit into the device's memory."""


class InvalidScores(ScoringFailed):
    """A score is not a finite number."""


class StoreError(AnimoraError):
    """PostgreSQL did not answer, or not as its views promise; or Redis, where it is more than a cache."""


class ProtocolError(AnimoraError):
    """What a worker and the device process that it shares sent each other cannot be read."""


class GenerationGone(AnimoraError):
    """The generation that a run builds is not being built any more; what it wrote expires unseen."""


class ConfigurationError(AnimoraError):
    """An option is wrong, or what it asks for cannot be had; the text names it and holds no secret."""

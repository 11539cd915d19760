"""The sections `rollback` and `shadow`: how new versions are watched, and compared before they serve."""

from pydantic import Field, field_validator

from animora_server.settings.section import DAY, Section, VersionText


class RollbackSettings(Section):
    """Automatic roll-back: the bands that a newly activated version must stay in."""

    window: float = Field(
        default=300.0,
        ge=0,
        le=DAY,
        description="seconds after an activation in which the server goes back to the version before if the "
        "new one leaves a band; 0 switches automatic roll-back off",
    )
    min_requests: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="requests that a rate of failures is taken of at least, so that a few failures among the "
        "first requests are no high rate",
    )
    max_error_rate: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of requests for which the new version fails and the one before does not; 1 is off",
    )
    max_invalid_rate: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of requests for which the new version has scores that are not finite, and the one "
        "before has not; 1 is off",
    )
    max_slowdown: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="the new version's time on the device for a request over that of the one before, as the "
        "median of requests, such as 1.5; 0 is off",
    )
    max_score_shift: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="population stability index of the new version's scores and those of the one before for "
        "the same posts, such as 0.25; 0 is off",
    )

    @field_validator("max_slowdown")
    @classmethod
    def _check_slowdown(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("must be 1 or more, or 0 for off")
        return value


class ShadowSettings(Section):
    """Shadow scoring: a second version that scores a sample of the requests, and that nobody sees."""

    version: VersionText = Field(
        default="",
        description="the version to load beside the active one; empty is off",
    )
    share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of the requests that it scores too, at most, as the device is idle",
    )

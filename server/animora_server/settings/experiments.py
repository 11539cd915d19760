"""The section `experiments`: arms, each of which serves a share of the users in its own way."""

import re
from itertools import pairwise

from pydantic import Field, ValidationError, field_validator

from animora_server.rollout_names import CONTROL
from animora_server.settings.ranking import TimelineSettings
from animora_server.settings.section import Section, VersionText, mistakes

MAX_ARMS = 8  # each is a value of a metric's label
ALL_USERS = 100  # percent
# The options of `timeline` that an arm may set: those that choose and order the posts of a ranked timeline.
ARM_TIMELINE_OPTIONS = (
    "window_days", "max_candidates", "max_posts", "include_own", "recency_weight", "popularity_weight",
    "author_discount", "exploration_share", "exploration_below",
)  # fmt: skip
_ARM_NAME = re.compile("[a-z][a-z0-9_-]{0,31}")


class ArmSettings(Section):
    """One arm: which users it serves, and how."""

    share: float = Field(ge=0, le=ALL_USERS, description="percent of the users")
    offset: float = Field(
        default=0.0,
        ge=0,
        le=ALL_USERS,
        description="percent at which the arm's users begin; arms must not overlap",
    )
    model_version: VersionText = Field(
        default="",
        description="the version that ranks; empty takes the active one",
    )
    timeline: dict[str, object] = Field(
        default={}, description="options of `timeline` with other values than for the rest of the users"
    )

    @field_validator("timeline")
    @classmethod
    def _check_names(cls, options: dict[str, object]) -> dict[str, object]:
        for name in options:
            if name not in ARM_TIMELINE_OPTIONS:
                raise ValueError(f"{name} cannot differ by arm: set any of {', '.join(ARM_TIMELINE_OPTIONS)}")
        return options

    @property
    def end(self) -> float:
        """The percent at which the arm's users end."""
        return self.offset + self.share

    def applied_to(self, timeline: TimelineSettings) -> TimelineSettings:
        """The arm's options of `timeline`.

        Raises:
            ValueError: A value is invalid, or does not go with those of the section; the text names it.
        """
        try:
            return TimelineSettings.model_validate(timeline.model_dump() | self.timeline)
        except ValidationError as error:
            mistake = mistakes(error)[0]
            where = "".join(f".{name}" for name in mistake["loc"])
            raise ValueError(f"timeline{where}: {mistake['msg']}") from error


class ExperimentSettings(Section):
    """Arms for a canary or an experiment. Users are drawn by a hash of their id."""

    salt: str = Field(
        default="animora", max_length=200, description="another text draws other users for every arm"
    )
    arms: dict[str, ArmSettings] = Field(
        default={}, description="the arms by name, a table each; as JSON in the variable"
    )

    @field_validator("arms")
    @classmethod
    def _check_names(cls, arms: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        if len(arms) > MAX_ARMS:
            raise ValueError(
                f"there are {len(arms)} arms: at most {MAX_ARMS} can be told apart in the metrics"
            )
        for name in arms:
            if not _ARM_NAME.fullmatch(name) or name == CONTROL:
                raise ValueError(
                    f"{name!a:.40} cannot be the name of an arm: take 1 to 32 lower-case letters, digits, "
                    f"- and _, beginning with a letter; {CONTROL} are the users of no arm"
                )
        return arms

    @field_validator("arms")
    @classmethod
    def _check_shares(cls, arms: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        total = sum(arm.share for arm in arms.values())
        if total > ALL_USERS:
            raise ValueError(f"the shares add up to {total:g} percent: at most {ALL_USERS} are there")
        for name, arm in arms.items():
            if arm.end > ALL_USERS:
                raise ValueError(
                    f"{name}: offset {arm.offset:g} and share {arm.share:g} end at {arm.end:g} percent, "
                    f"above {ALL_USERS}: lower the offset"
                )
        placed = sorted((arm.offset, arm.end, name) for name, arm in arms.items() if arm.share)
        for (_, end, name), (start, _, other) in pairwise(placed):
            if start < end:
                raise ValueError(
                    f"{other}: its users begin at {start:g} percent, where those of {name} end at {end:g}: "
                    f"set its offset to {end:g} or above"
                )
        return arms

    @property
    def versions(self) -> frozenset[str]:
        """The model versions that arms name."""
        return frozenset(arm.model_version for arm in self.arms.values() if arm.model_version)

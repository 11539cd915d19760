"""Names of experiments and roll-backs that all parts share.

Light: the settings import it, and they import no NumPy.
"""

from enum import StrEnum
from typing import Literal

CONTROL = "control"  # the arm of all users who are in no other
# Why the control arm serves a user of another arm: the arm's version is not loaded yet, or was refused, or
# the arm is switched off.
FallbackReason = Literal["loading", "refused", "disabled"]


class Band(StrEnum):
    """What is compared of a version on trial; the reason for which it is rolled back."""

    ERRORS = "errors"
    INVALID_SCORES = "invalid_scores"
    SLOWDOWN = "slowdown"
    SCORE_SHIFT = "score_shift"

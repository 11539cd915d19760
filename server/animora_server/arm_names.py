"""The names of experiments that all parts share. Light: the settings import it, and they import no NumPy."""

from typing import Literal

CONTROL = "control"  # the arm of all users who are in no other
# Why the control arm serves a user of another arm: the arm's version is not loaded yet, or was refused, or
# the arm is switched off.
FallbackReason = Literal["loading", "refused", "disabled"]

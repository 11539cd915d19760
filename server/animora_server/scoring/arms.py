"""The arms of the experiments: which of them serves a user."""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from animora_server.rollout_names import CONTROL, Band, FallbackReason
from animora_server.scoring.serving_state import ServingState
from animora_server.settings import ExperimentSettings

log = structlog.get_logger(__name__)

HASH_BYTES = 6  # so that a float holds each value
PERCENT = 100 / (1 << 8 * HASH_BYTES)
_USER = struct.Struct("<q")


class FallbackCounter(Protocol):
    """Counts queries of an arm's users that the control arm serves."""

    def fell_back(self, arm: str, reason: FallbackReason) -> None:
        """Counts one."""
        ...

    def left_band(self, arm: str, band: Band) -> None:
        """Counts an arm that is switched off because its version has left a band."""
        ...


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm of the experiments.

    Attributes:
        name: The name, as in replies, logs and metrics.
        model_version: The version that ranks; empty for the active one.
    """

    name: str
    model_version: str = ""


CONTROL_ARM = Arm(CONTROL)  # of users in no other arm, and of users whose arm cannot serve


class Arms:
    """Which arm serves a user: the same in every process with the same settings, and after a restart.

    A user's position is a hash of the salt and the user's id, in percent; an arm has the users of a range of
    positions. An arm can be switched off while the server runs; its users are then served as control.

    Args:
        settings: The salt and the arms.
        counter: Counts queries that the control arm serves because an arm cannot.
    """

    def __init__(self, settings: ExperimentSettings, counter: FallbackCounter) -> None:
        self._salt = hashlib.blake2b(settings.salt.encode(), digest_size=16, person=b"animora-arms").digest()
        self._ranges = [
            (arm.offset, arm.end, Arm(name, arm.model_version)) for name, arm in settings.arms.items()
        ]
        self._counter = counter
        self._disabled: dict[str, str] = {}
        self._refused: frozenset[str] = frozenset()
        self.versions = settings.versions  # that arms name

    @property
    def all(self) -> Sequence[Arm]:
        """The arms, without control."""
        return [arm for _, _, arm in self._ranges]

    def position(self, user_id: int) -> float:
        """The position of a user, 0 to below 100 percent."""
        digest = hashlib.blake2b(self._salt + _USER.pack(user_id), digest_size=HASH_BYTES).digest()
        return int.from_bytes(digest, "little") * PERCENT

    def of(self, user_id: int) -> Arm:
        """The arm that a user belongs to, whether it can serve or not."""
        position = self.position(user_id)
        for start, end, arm in self._ranges:
            if start <= position < end:
                return arm
        return CONTROL_ARM

    def serving(self, state: ServingState, user_id: int) -> Arm:
        """The arm that serves a user: the user's own, or control where that cannot; counts the latter."""
        arm = self.of(user_id)
        if arm is CONTROL_ARM:
            return arm
        reason = self._why_not(state, arm)
        if reason is None:
            return arm
        self._counter.fell_back(arm.name, reason)
        return CONTROL_ARM

    def _why_not(self, state: ServingState, arm: Arm) -> FallbackReason | None:
        """Why an arm cannot serve; None if it can."""
        if arm.name in self._disabled:
            return "disabled"
        if not arm.model_version or arm.model_version in state.resident:
            return None
        return "refused" if arm.model_version in self._refused else "loading"

    @property
    def disabled(self) -> Mapping[str, str]:
        """The arms that are switched off, and why."""
        return self._disabled

    def disable(self, name: str, reason: str) -> None:
        """Switches an arm off: from the next request on, its users are served as control.

        Page tokens of the arm stay valid. The arm is off in this process and until its end.

        Raises:
            KeyError: There is no such arm.
        """
        self._require(name)
        if name not in self._disabled:
            log.warning("arm switched off", arm=name, reason=reason)
        self._disabled[name] = reason

    def disable_version(self, version: str, band: Band, detail: str) -> None:
        """Switches off the arms of a version that has left a band of the section `rollback`."""
        for arm in self.all:
            if arm.model_version == version:
                self.disable(arm.name, f"{band}: {detail}")
                self._counter.left_band(arm.name, band)

    @property
    def enabled_versions(self) -> frozenset[str]:
        """The versions of the arms that are switched on."""
        return frozenset(arm.model_version for arm in self.all if arm.name not in self._disabled) - {""}

    def enable(self, name: str) -> None:
        """Switches an arm on again. Raises KeyError if there is no such arm."""
        self._require(name)
        if self._disabled.pop(name, None) is not None:
            log.info("arm switched on", arm=name)

    def refuse(self, versions: Iterable[str]) -> None:
        """Sets the versions of arms that could not be loaded, which a fallback is counted with."""
        self._refused = frozenset(versions)

    def _require(self, name: str) -> None:
        if name not in (arm.name for arm in self.all):
            raise KeyError(name)

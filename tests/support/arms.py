"""A counter of fallbacks of arms that records them."""

from dataclasses import dataclass, field

from animora_server.rollout_names import Band, FallbackReason


@dataclass
class Fallbacks:
    """Records which arm fell back to control, and why; and which left a band."""

    seen: list[tuple[str, FallbackReason]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def fell_back(self, arm: str, reason: FallbackReason) -> None:
        """See scoring.arms.FallbackCounter."""
        self.seen.append((arm, reason))

    def left_band(self, arm: str, band: Band) -> None:
        """See scoring.arms.FallbackCounter."""
        self.left.append((arm, band))

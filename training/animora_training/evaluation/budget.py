"""How much may be tried when a baseline is tuned."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be tried for a recipe; the first attempt is always made.

    Attributes:
        attempts: Fits at most.
        seconds: After which no further fit is begun; what is chosen then depends on how fast the machine is.
    """

    attempts: int = 16
    seconds: float = math.inf

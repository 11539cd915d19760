"""The budget for tuning a baseline."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """Budget for tuning one recipe; one attempt is always made.

    Attributes:
        attempts: Maximum number of fits.
        seconds: Time after which no further fit starts; the choice then depends on the speed of the machine.
    """

    attempts: int = 16
    seconds: float = math.inf

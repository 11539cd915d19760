"""How long a worker is waited for, and how often another is started in its place."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Times in seconds.

    Attributes:
        look_interval: Between two looks at each worker.
        hang_timeout: For which a worker may not be well before it is ended by force.
        first_delay: Before a worker that ended is started again; doubled with each end that follows.
        proven_after: For which a worker must have answered calls, to begin anew with `first_delay`.
        most_ends: Ends in a row, without such a time between them, after which no more are started.
        scrape_timeout: For which a worker's metrics are waited for; then its last ones are shown.
    """

    look_interval: float = 0.25
    hang_timeout: float = 30.0
    first_delay: float = 0.5
    proven_after: float = 60.0
    most_ends: int = 5
    scrape_timeout: float = 1.0

    def delay(self, ends: int) -> float:
        """Seconds before the next start after so many ends in a row, from 1; jittered, to spread them."""
        return self.first_delay * 2.0 ** (ends - 1) * random.uniform(0.5, 1)

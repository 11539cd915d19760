"""How much of a call's time is kept for an answer without the model."""

LEAST_RESERVE = 0.004  # seconds: the heuristic, and the way back
RESERVED_SHARE = 0.2
LONGEST_RESERVE = 0.1  # seconds


def reserve(timeout: float) -> float:
    """Seconds before a call's deadline at which the heuristic answers, if the model has not.

    A stall of the model lets many calls fall back at the same time, and their answers leave one after
    another. And the caller's clock started before the server's, by the time that the request took on its way.

    Args:
        timeout: Seconds that the call may take.
    """
    return min(max(RESERVED_SHARE * timeout, LEAST_RESERVE), LONGEST_RESERVE)

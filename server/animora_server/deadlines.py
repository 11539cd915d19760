"""The reserve: how much of a call's time is kept for the fallback."""

MIN_RESERVE = 0.004  # seconds: the heuristic, and sending the response
RESERVE_SHARE = 0.2
MAX_RESERVE = 0.1  # seconds


def reserve(timeout: float) -> float:
    """Seconds before a call's deadline at which the fallback answers, if the model has not.

    After a stall of the model many calls fall back at once, and their responses are sent in sequence. And the
    caller's clock started earlier than the server's, by the travel time of the request.

    Args:
        timeout: Seconds that the call may take.
    """
    return min(max(RESERVE_SHARE * timeout, MIN_RESERVE), MAX_RESERVE)

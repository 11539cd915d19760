"""When a list is renewed: a little before it is due, by chance, so that not everyone does it at once.

A list that took `cost` seconds to make is renewed early at time t with the chance that
t - cost * beta * ln(u) >= fresh_until, for a u drawn evenly from (0, 1] (XFetch: Vattani, Chierichetti and
Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015).
"""

import math
from enum import StrEnum

from animora_server.types import RankedTimeline


class Freshness(StrEnum):
    """What may be done with a list that was found."""

    FRESH = "fresh"  # served
    DUE = "due"  # served as fresh, and renewed meanwhile
    STALE = "stale"  # served as stale, and renewed meanwhile
    EXPIRED = "expired"  # of no more use but to its page tokens


def freshness(snapshot: RankedTimeline, now: float, stale_ttl: float, beta: float, draw: float) -> Freshness:
    """How fresh a list is.

    Args:
        snapshot: The list.
        now: Unix seconds.
        stale_ttl: Seconds that a list may be served after it is no longer fresh.
        beta: How eagerly lists are renewed early; 0 never does.
        draw: A number drawn evenly from (0, 1].
    """
    if now >= snapshot.fresh_until + stale_ttl or snapshot.is_from_the_future(now):
        return Freshness.EXPIRED
    if now >= snapshot.fresh_until:
        return Freshness.STALE
    early = now - snapshot.cost * beta * math.log(draw)
    return Freshness.DUE if early >= snapshot.fresh_until else Freshness.FRESH

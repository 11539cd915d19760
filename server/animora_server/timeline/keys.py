"""Keys of ranked timelines: a user, the options of the call, and a digest of the settings."""

import hashlib
import json

from animora_server.settings import RankingSettings, TimelineSettings

# The settings that shape a ranked timeline. The rest concern its time to live and its pages.
TIMELINE_SETTINGS = (
    "window_days", "max_candidates", "max_posts", "max_bytes", "include_own", "recency_weight",
    "popularity_weight", "author_discount", "exploration_share", "exploration_below",
)  # fmt: skip
HEURISTIC_SETTINGS = ("popularity_weight", "recency_scale_hours")


def settings_digest(timeline: TimelineSettings, ranking: RankingSettings) -> str:
    """16 hexadecimal digits; settings that shape ranked timelines differently have different digests."""
    values = [getattr(timeline, name) for name in TIMELINE_SETTINGS]
    values += [getattr(ranking, name) for name in HEURISTIC_SETTINGS]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=8).hexdigest()


def timeline_key(user_id: int, digest: str, *, include_seen: bool) -> bytes:
    """The key of a user's timelines, printable. The braces put all keys of a user into one Redis slot.

    Args:
        user_id: Any signed 64-bit integer.
        digest: The settings' digest.
        include_seen: Whether the timeline keeps posts that the user has liked or commented on.
    """
    return f"{{{user_id}}}:{digest}:{'all' if include_seen else 'new'}".encode()

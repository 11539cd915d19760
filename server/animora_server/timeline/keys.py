"""Names of lists: whose, by which options, under which settings."""

import hashlib
import json

from animora_server.settings import RankingSettings, TimelineSettings

# What shapes a list; the other settings say how long it lives and how it is cut into pages.
LIST_SETTINGS = (
    "window_days", "max_candidates", "max_posts", "max_bytes", "include_own", "recency_weight",
    "popularity_weight", "author_discount", "exploration_share", "exploration_below",
)  # fmt: skip
HEURISTIC_SETTINGS = ("popularity_weight", "recency_scale_hours")


def settings_digest(timeline: TimelineSettings, ranking: RankingSettings) -> str:
    """16 hexadecimal digits that differ between settings that shape lists differently."""
    shape = [getattr(timeline, name) for name in LIST_SETTINGS]
    shape += [getattr(ranking, name) for name in HEURISTIC_SETTINGS]
    return hashlib.blake2b(json.dumps(shape).encode(), digest_size=8).hexdigest()


def timeline_key(user_id: int, digest: str, *, include_seen: bool) -> bytes:
    """The key of a user's lists, printable; in braces what puts all of a user's into one Redis slot.

    Args:
        user_id: Any signed 64-bit integer.
        digest: Of the settings.
        include_seen: Whether the list keeps posts that the user has liked or commented on.
    """
    return f"{{{user_id}}}:{digest}:{'all' if include_seen else 'new'}".encode()

"""The server's queries over the four views. In binary COPY '-infinity' is `animora_server.catalog.NEVER`."""

from datetime import datetime

from animora_database import views
from animora_database.views import BIGINT, ViewQuery
from animora_server.types import IntArray

POSTS = views.POSTS.select("id", "author_id", "created_at", "updated_at", "deleted_at")
BLOCKS = views.BLOCKS.select("blocker_id", "blocked_id")
# Interactions for seen posts alone, and for histories as well.
PAIRS = views.INTERACTIONS.select("user_id", "post_id")
TIMED = views.INTERACTIONS.select("user_id", "post_id", "kind", "created_at")

_INTERACTIONS = f"from animora.interactions where {views.INTERACTIONS.counts}"


def posts_since(moment: datetime) -> ViewQuery:
    """Selects the posts created, edited or soft-deleted since a moment."""
    since = _literal(moment)
    return POSTS.where(f"(created_at >= {since} or updated_at >= {since} or deleted_at >= {since})")


def posts_of(ids: IntArray) -> ViewQuery:
    """Selects the posts among ids int64 (k) that exist."""
    return POSTS.where(_id_in(ids))


def filled(no_image: IntArray, no_caption: IntArray) -> ViewQuery:
    """Selects the ids, among int64 (k) each, of posts that have an image or a caption embedding now."""
    return views.POSTS.select("id").where(
        f"(({_id_in(no_image)} and image_embedding is not null)"
        f" or ({_id_in(no_caption)} and caption_embedding is not null))"
    )


def embeddings(ids: IntArray | None = None) -> ViewQuery:
    """Selects id and embeddings of all posts, or of posts int64 (k) with the preferred duplicate first."""
    query = views.POSTS.select("id", "image_embedding", "caption_embedding")
    if ids is None:
        return query
    # The order of PostRecords.distinct. Sorting all posts would take too long.
    return query.where(_id_in(ids)).order_by("id, deleted_at is null, created_at, author_id")


def interaction_counts(until: datetime) -> ViewQuery:
    """Selects the number of interactions of each post before a moment."""
    return ViewQuery(
        "interactions",
        {"post_id": BIGINT, "count": BIGINT},
        f"select post_id::bigint, pg_catalog.count(*) {_INTERACTIONS} and created_at < {_literal(until)}"
        " group by post_id",
    )


def interactions(since: datetime, until: datetime | None, history: int) -> ViewQuery:
    """Selects the interactions since a moment, and before `until` if given; see PAIRS and TIMED.

    Args:
        since: The moment.
        until: None for no end.
        history: The length of the histories that are kept.
    """
    query = (TIMED if history else PAIRS).where(f"created_at >= {_literal(since)}")
    return query if until is None else query.where(f"created_at < {_literal(until)}")


def active_users(since: datetime) -> ViewQuery:
    """Selects the users who liked or commented since a moment, the most active first."""
    return ViewQuery(
        "interactions",
        {"user_id": BIGINT},
        f"""
select interaction.user_id::bigint
from (select user_id {_INTERACTIONS} and created_at >= {_literal(since)}) as interaction
join (select distinct id from animora.users) as "user" on "user".id = interaction.user_id
group by interaction.user_id
order by pg_catalog.count(*) desc, 1
""",
    )


def _literal(moment: datetime) -> str:
    """A moment with a time zone, in a form that does not depend on session settings."""
    return f"'{moment.isoformat()}'::timestamp with time zone"


def _id_in(ids: IntArray) -> str:
    return f"id = any('{{{','.join(map(str, ids.tolist()))}}}'::bigint[])"

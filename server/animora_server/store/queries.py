"""The SQL over the four views, and the types of the selected columns.

Ids are cast, so that a view may have any integer type. In binary COPY '-infinity' is
`animora_server.catalog.NEVER`. Values are part of the text, because arguments of a COPY would cost asyncpg
one more round trip.
"""

from datetime import datetime

from animora_database import views
from animora_server.types import IntArray

POST_COLUMNS = (">i8", ">i8", ">i8", ">i8", "?")
PAIR_COLUMNS = (">i8", ">i8")
ID_COLUMN = (">i8",)

POSTS = f"""
select id::bigint, author_id::bigint, created_at, coalesce(updated_at, '-infinity'), deleted_at is not null
from animora.posts
where {views.POSTS.counts}
"""

BLOCKS = f"""
select blocker_id::bigint, blocked_id::bigint
from animora.blocks
where {views.BLOCKS.counts}
"""

USERS = f"""
select distinct id::bigint
from animora.users
where {views.USERS.counts}
order by 1
"""

_INTERACTIONS = f"from animora.interactions where {views.INTERACTIONS.counts}"


def posts_since(moment: datetime) -> str:
    """Selects the posts created, edited or soft-deleted since a moment."""
    since = _literal(moment)
    return f"{POSTS} and (created_at >= {since} or updated_at >= {since} or deleted_at >= {since})"


def posts_of(ids: IntArray) -> str:
    """Selects the posts among ids int64 (k) that exist."""
    return f"{POSTS} and id = any({_array(ids)})"


def filled(no_image: IntArray, no_caption: IntArray) -> str:
    """Selects the ids, among int64 (k) each, of posts that have an image or a caption embedding now."""
    return f"""
select id::bigint
from animora.posts
where {views.POSTS.counts} and (
    (id = any({_array(no_image)}) and image_embedding is not null)
    or (id = any({_array(no_caption)}) and caption_embedding is not null)
)
"""


def embeddings(ids: IntArray | None = None) -> str:
    """Selects id and embeddings of all posts, or of posts int64 (k) with the preferred duplicate first."""
    query = f"""
select id::bigint, image_embedding, caption_embedding
from animora.posts
where {views.POSTS.counts}
"""
    # The order of PostRecords.distinct. Sorting all posts would take too long.
    order = "order by id, deleted_at is null, created_at, author_id"
    return query if ids is None else f"{query} and id = any({_array(ids)}) {order}"


def interaction_counts(until: datetime) -> str:
    """Selects the number of interactions of each post before a moment."""
    return (
        f"select post_id::bigint, pg_catalog.count(*) {_INTERACTIONS} and created_at < {_literal(until)}"
        " group by post_id"
    )


def interactions(since: datetime, until: datetime | None = None) -> str:
    """Selects user and post of the interactions since a moment, and before `until` if given."""
    before = "" if until is None else f"and created_at < {_literal(until)}"
    return (
        f"select user_id::bigint, post_id::bigint {_INTERACTIONS}"
        f" and created_at >= {_literal(since)} {before}"
    )


def active_users(since: datetime) -> str:
    """Selects the users who liked or commented since a moment, the most active first."""
    return f"""
select interaction.user_id::bigint
from (select user_id {_INTERACTIONS} and created_at >= {_literal(since)}) as interaction
join (select distinct id from animora.users) as "user" on "user".id = interaction.user_id
group by interaction.user_id
order by pg_catalog.count(*) desc, 1
"""


def _literal(moment: datetime) -> str:
    """A moment with a time zone, in a form that does not depend on session settings."""
    return f"'{moment.isoformat()}'::timestamp with time zone"


def _array(ids: IntArray) -> str:
    return "'{" + ",".join(map(str, ids.tolist())) + "}'::bigint[]"

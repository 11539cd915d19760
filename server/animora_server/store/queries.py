"""The SQL over the four views, and the columns that it gives.

Rows that lack what ranking needs (an id, an author, a time) are passed over. Ids are cast, so that a view
may give any integer type. '-infinity' is, on the wire, `animora_server.catalog.NEVER`.
"""

POST_COLUMNS = (">i8", ">i8", ">i8", ">i8", "?")
PAIR_COLUMNS = (">i8", ">i8")
ID_COLUMN = (">i8",)

POSTS = """
select id::bigint, author_id::bigint, created_at::timestamptz,
       coalesce(updated_at::timestamptz, '-infinity'), deleted_at is not null
from animora.posts
where id is not null and author_id is not null and created_at is not null
"""

POSTS_SINCE = f"{POSTS} and (created_at >= $1 or updated_at >= $1 or deleted_at >= $1)"

POSTS_OF = f"{POSTS} and id = any($1)"

FILLED = """
select id::bigint
from animora.posts
where (id = any($1) and image_embedding is not null) or (id = any($2) and caption_embedding is not null)
"""

INTERACTION_COUNTS = """
select post_id::bigint, count(*)
from animora.interactions
where created_at < $1 and user_id is not null and post_id is not null
group by post_id
"""

INTERACTIONS_SINCE = """
select user_id::bigint, post_id::bigint
from animora.interactions
where created_at >= $1 and user_id is not null and post_id is not null
"""

INTERACTIONS_BETWEEN = f"{INTERACTIONS_SINCE} and created_at < $2"

BLOCKS = """
select blocker_id::bigint, blocked_id::bigint
from animora.blocks
where blocker_id is not null and blocked_id is not null
"""

USERS = """
select distinct id::bigint
from animora.users
where id is not null
order by 1
"""

ACTIVE_USERS = """
select interaction.user_id::bigint
from animora.interactions as interaction
join animora.users as "user" on "user".id = interaction.user_id
where interaction.created_at >= $1
group by interaction.user_id
order by count(*) desc, 1
"""


def embeddings(image: str, caption: str) -> str:
    """Selects id and embeddings, by the expressions for their columns."""
    return f"select id::bigint, {image}, {caption} from animora.posts where id is not null"

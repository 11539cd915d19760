"""Whether the four views are there, complete and readable, and how their embeddings are read."""

from dataclasses import dataclass

import asyncpg

from animora_server.errors import StoreError

COLUMNS = {
    "users": ("id",),
    "posts": (
        "id", "author_id", "created_at", "updated_at", "deleted_at", "image_embedding", "caption_embedding",
    ),
    "interactions": ("user_id", "post_id", "kind", "created_at"),
    "blocks": ("blocker_id", "blocked_id", "created_at"),
}  # fmt: skip

QUERY = """
select view.relname, attribute.attname, type.typname,
       has_schema_privilege(namespace.oid, 'usage') and has_table_privilege(view.oid, 'select') as readable
from pg_catalog.pg_namespace as namespace
join pg_catalog.pg_class as view on view.relnamespace = namespace.oid
join pg_catalog.pg_attribute as attribute on attribute.attrelid = view.oid
join pg_catalog.pg_type as type on type.oid = attribute.atttypid
where namespace.nspname = 'animora' and attribute.attnum > 0 and not attribute.attisdropped
"""


@dataclass(frozen=True, slots=True)
class EmbeddingTypes:
    """The types of the embeddings' columns, as PostgreSQL names them."""

    image: str
    caption: str


async def check_views(connection: asyncpg.Connection) -> EmbeddingTypes:
    """Looks at the views' definitions.

    Raises:
        StoreError: A view or column is missing, or this role may not read it; says what to do.
    """
    found: dict[str, dict[str, str]] = {}
    unreadable = set()
    for view, column, type_name, readable in await connection.fetch(QUERY):
        found.setdefault(view, {})[column] = type_name
        if not readable:
            unreadable.add(view)
    for view, columns in COLUMNS.items():
        if view not in found:
            raise StoreError(
                f"there is no view animora.{view}: apply deploy/sql, or write the views over your own tables"
            )
        if view in unreadable:
            raise StoreError(
                f"this role may not read animora.{view}: grant it what deploy/sql/030_reader.sql grants"
            )
        for column in columns:
            if column not in found[view]:
                raise StoreError(
                    f"animora.{view} has no column {column}: deploy/sql/020_views.sql tells what it must give"
                )
    return EmbeddingTypes(found["posts"]["image_embedding"], found["posts"]["caption_embedding"])

"""Checks that the four views exist, are readable, and have supported column types."""

from collections.abc import Iterable, Mapping

import asyncpg

from animora_database.embeddings import DECODERS, Decoder
from animora_database.errors import UnusableView
from animora_database.views import POSTS, VIEWS, ColumnKind, View

# One row for each column: view, column, type, whether the type is an enum, its name in SQL, whether this role
# may read the column. A domain is resolved to its base type.
QUERY = """
select view.relname, attribute.attname, base.name, base.is_enum, format_type(attribute.atttypid, null),
       has_schema_privilege(namespace.oid, 'usage')
       and has_column_privilege(view.oid, attribute.attnum, 'select')
from pg_catalog.pg_namespace as namespace
join pg_catalog.pg_class as view on view.relnamespace = namespace.oid
join pg_catalog.pg_attribute as attribute on attribute.attrelid = view.oid
cross join lateral (
    with recursive types as (
        select typname, typtype, typbasetype
        from pg_catalog.pg_type
        where pg_type.oid = attribute.atttypid
        union all
        select below.typname, below.typtype, below.typbasetype
        from types
        join pg_catalog.pg_type as below on below.oid = types.typbasetype
    )
    select typname as name, typtype = 'e' as is_enum from types where typbasetype = 0
) as base
where namespace.nspname = 'animora' and view.relkind in ('r', 'v', 'm', 'f', 'p')
    and attribute.attnum > 0 and not attribute.attisdropped
"""
Row = tuple[str, str, str, bool, str, bool]

TYPES: Mapping[ColumnKind, frozenset[str]] = {
    ColumnKind.ID: frozenset({"int2", "int4", "int8"}),
    ColumnKind.TIME: frozenset({"timestamptz"}),
    ColumnKind.WORD: frozenset({"text", "varchar", "bpchar", "name"}),
    ColumnKind.EMBEDDING: frozenset(DECODERS),
}
# Suggested expressions for columns of unsupported types; `*` for any other type.
CASTS: Mapping[ColumnKind, Mapping[str, str]] = {
    ColumnKind.ID: {
        "uuid": "an integer column of the same table, as ids are 64-bit integers",
        "*": "{column}::bigint",
    },
    ColumnKind.TIME: {
        "timestamp": "{column} at time zone 'UTC', or the zone in which the application writes it",
        "date": "{column}::timestamp at time zone 'UTC'",
        "bool": "case when {column} then coalesce(updated_at, created_at) end",
        **dict.fromkeys(("int4", "int8", "numeric", "float8"), "to_timestamp({column})"),
        "*": "{column}::timestamptz",
    },
    ColumnKind.WORD: {"*": "{column}::text"},
    ColumnKind.EMBEDDING: {
        "_numeric": "{column}::double precision[]",
        "sparsevec": "{column}::vector",
        **dict.fromkeys(
            ("json", "jsonb"),
            "a function that makes real[] of it, such as parse_features of deploy/sql/adapter_original.sql",
        ),
        "*": "{column}::real[], or null::real[] where there are none",
    },
}


def check_views(rows: Iterable[Row], views: Iterable[View] = VIEWS) -> None:
    """Checks the result of QUERY for some views.

    Raises:
        UnusableView: A view or column is missing, not readable by this role, or of an unsupported type.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row[0], {})[row[1]] = row
    for view in views:
        _check(view, found.get(view.name))


def embedding_decoders(rows: Iterable[Row]) -> tuple[Decoder, Decoder]:
    """The decoders of image and caption embeddings of animora.posts, from the checked result of QUERY."""
    types = {column: type_name for view, column, type_name, *_ in rows if view == POSTS.name}
    return DECODERS[types["image_embedding"]], DECODERS[types["caption_embedding"]]


async def count_left_out(
    connection: asyncpg.Connection, timeout: float | None = None
) -> dict[tuple[str, str], int]:
    """The number of left-out rows, by view and reason."""
    return {
        (view.name, reason): count
        for view in VIEWS
        for reason, count in zip(
            view.conditions, await connection.fetchrow(view.left_out_query, timeout=timeout), strict=True
        )
    }


def _check(view: View, found: Mapping[str, Row] | None) -> None:
    if found is None:
        raise UnusableView(
            f"there is no view animora.{view.name}: apply deploy/sql/010_tables.sql and "
            "deploy/sql/020_views.sql, or write the four views of the latter over your own tables"
        )
    for column, kind in view.columns.items():
        if column not in found:
            raise UnusableView(
                f"animora.{view.name} has no column {column}: deploy/sql/020_views.sql tells what it gives"
            )
        _, _, type_name, is_enum, shown, readable = found[column]
        if not readable:
            raise UnusableView(
                f"this role may not read {column} of animora.{view.name}: grant it what "
                "deploy/sql/030_reader.sql grants"
            )
        if kind is ColumnKind.ANY or type_name in TYPES[kind] or (kind is ColumnKind.WORD and is_enum):
            continue
        casts = CASTS[kind]
        cast = casts.get(type_name, casts["*"]).format(column=column)
        raise UnusableView(f"animora.{view.name}: {column} is {shown} and must be {kind.value}: write {cast}")

"""Begins a reading: a read-only transaction whose views are checked and whose results depend on no setting.

A reading checks that the four views exist, are readable, and have supported column types. It counts the
rows that are not valid, and finds tables whose row-level security hides rows: policies hide rows without an
error, so a feed would be incomplete without a warning.
"""

from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from animora_database.embeddings import DECODERS, Decoder
from animora_database.errors import UnusableView
from animora_database.views import POSTS, VIEWS, ColumnKind, View

# Settings of text formats and of the time zone, which casts in a view depend on.
SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "row_security": "on",
    # No timeouts by the server; the programs have their own.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
SINCE_17 = {"transaction_timeout": "0"}

# One row for each column: view, column, type, whether the type is an enum, its name in SQL, whether this role
# may read the column. A domain is resolved to its base type.
COLUMNS = """
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

# A row a table: the view, the table, and the role as which the view reads the table. A view reads as its
# owner, or as its reader where it says security_invoker. Superusers, roles with BYPASSRLS and, unless it is
# forced on them, owners see all rows.
HIDING_TABLES = """
with recursive reached(view, relation, reader) as (
    select relation.relname, relation.oid, (select oid from pg_catalog.pg_roles where rolname = current_user)
    from pg_catalog.pg_class as relation
    join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
    where namespace.nspname = 'animora' and relation.relname in ('users', 'posts', 'interactions', 'blocks')
    union
    select
        reached.view,
        depend.refobjid,
        case
            when (
                select option_value::boolean
                from pg_catalog.pg_options_to_table(relation.reloptions)
                where option_name = 'security_invoker'
            )
            then reached.reader
            else relation.relowner
        end
    from reached
    join pg_catalog.pg_class as relation on relation.oid = reached.relation and relation.relkind = 'v'
    join pg_catalog.pg_rewrite as rule on rule.ev_class = relation.oid
    join pg_catalog.pg_depend as depend
        on depend.classid = 'pg_catalog.pg_rewrite'::regclass and depend.objid = rule.oid
        and depend.refclassid = 'pg_catalog.pg_class'::regclass and depend.refobjid <> relation.oid
)
select distinct reached.view, reached.relation::regclass::text, role.rolname
from reached
join pg_catalog.pg_class as relation on relation.oid = reached.relation
join pg_catalog.pg_roles as role on role.oid = reached.reader
where relation.relrowsecurity and not role.rolsuper and not role.rolbypassrls
    and (relation.relforcerowsecurity or not pg_has_role(role.oid, relation.relowner, 'usage'))
order by 1, 2, 3
"""


async def begin_reading(connection: asyncpg.Connection) -> None:
    """Begins a read-only transaction whose snapshot is taken by its first query.

    The settings are local to the transaction, since a pooler may use another session for the next one.
    """
    settings = SETTINGS | (SINCE_17 if connection.get_server_version().major >= 17 else {})
    statements = [f"set local {name} = '{value}'" for name, value in settings.items()]
    await connection.execute("; ".join(["begin isolation level repeatable read read only", *statements]))


async def check_views(connection: asyncpg.Connection, views: Iterable[View] = VIEWS) -> Sequence[Row]:
    """Checks some views. Returns the columns of all views.

    Raises:
        UnusableView: A view or column is missing, not readable by this role, or of an unsupported type.
    """
    rows: Sequence[Row] = await connection.fetch(COLUMNS)
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row[0], {})[row[1]] = row
    for view in views:
        _check(view, found.get(view.name))
    return rows


def embedding_decoders(rows: Iterable[Row]) -> tuple[Decoder, Decoder]:
    """The decoders of image and caption embeddings of animora.posts, from the result of check_views."""
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


async def find_hiding_tables(connection: asyncpg.Connection) -> list[tuple[str, str, str]]:
    """The tables that hide rows: view, table, and the role as which the view reads the table."""
    return [tuple(row) for row in await connection.fetch(HIDING_TABLES)]


def hiding_warning(view: str, table: str, reader: str) -> str:
    """The warning for a table that hides rows."""
    return (
        f"row-level security of {table} decides which rows animora.{view} shows: those that no policy shows "
        f"to the role {reader} do not exist here. If all should, give {reader} BYPASSRLS, or a policy "
        "using (true)"
    )


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

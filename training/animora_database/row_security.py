"""Finds tables under the four views whose row-level security hides rows from their reader.

Policies hide rows without an error, so a feed would be incomplete without a warning.
"""

# A row a table: the view, the table, and the role as which the view reads the table. A view reads as its
# owner, or as its reader where it says security_invoker. Superusers, roles with BYPASSRLS and, unless it is
# forced on them, owners see all rows.
QUERY = """
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


def warning(view: str, table: str, reader: str) -> str:
    """The warning for a row of QUERY."""
    return (
        f"row-level security of {table} decides which rows animora.{view} shows: those that no policy shows "
        f"to the role {reader} do not exist here. If all should, give {reader} BYPASSRLS, or a policy "
        "using (true)"
    )

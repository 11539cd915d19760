"""The four views: columns, and the conditions of valid rows.

The server's load and polls and the trainer share these definitions, so that all of them see the same rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

# NumPy's types of fields in binary COPY; a time is microseconds since 2000.
BIGINT, SMALLINT, BOOLEAN = ">i8", ">i2", "?"
# A kind is selected as its position here, so a further kind is appended.
INTERACTION_KINDS = ("like", "comment")
_KIND_POSITIONS = " ".join(f"when '{kind}' then {number}" for number, kind in enumerate(INTERACTION_KINDS))
# SQL of a selected column that is not the column itself, and its NumPy type.
SELECTED = {
    "updated_at": ("coalesce(updated_at, '-infinity')", BIGINT),
    "deleted_at": ("deleted_at is not null", BOOLEAN),
    "kind": (f"(case kind::text {_KIND_POSITIONS} end)::smallint", SMALLINT),
}


class ColumnKind(Enum):
    """Kind of a column; `reading` has the types of each kind."""

    ID = "bigint"
    TIME = "timestamp with time zone"
    WORD = "text"
    EMBEDDING = "real[], double precision[], vector or halfvec"
    ANY = "any type"


@dataclass(frozen=True, slots=True)
class ViewQuery:
    """A query over a view, for binary COPY.

    Attributes:
        view: Name of the view without the schema.
        types: NumPy types of the selected columns by name, except embeddings. None of them is ever null.
        sql: The query. Values are part of the text, because arguments of a COPY would cost asyncpg one more
            round trip.
    """

    view: str
    types: Mapping[str, str]
    sql: str

    def where(self, condition: str) -> "ViewQuery":
        """The query with a further condition."""
        return replace(self, sql=f"{self.sql} and {condition}")

    def order_by(self, order: str) -> "ViewQuery":
        """The query with an order."""
        return replace(self, sql=f"{self.sql} order by {order}")


@dataclass(frozen=True, slots=True)
class View:
    """One of the four views.

    Attributes:
        name: Name without the schema.
        columns: Kinds of the columns by name.
        conditions: SQL conditions of a valid row, by the reason for leaving out other rows. Of several
            reasons the first is counted.
    """

    name: str
    columns: Mapping[str, ColumnKind]
    conditions: Mapping[str, str]

    @property
    def counts(self) -> str:
        """SQL: condition of a valid row."""
        return " and ".join(self.conditions.values())

    def select(self, *columns: str, distinct: bool = False) -> ViewQuery:
        """Selects columns of the valid rows; ids are cast, so that a view may have any integer type."""
        expressions, types = [], {}
        for column in columns:
            kind = self.columns[column]
            default = f"{column}::bigint" if kind is ColumnKind.ID else column
            expression, dtype = SELECTED.get(column, (default, BIGINT))
            expressions.append(expression)
            if kind is not ColumnKind.EMBEDDING:
                types[column] = dtype
        selected = f"select{' distinct' * distinct} {', '.join(expressions)}"
        return ViewQuery(self.name, types, f"{selected} from animora.{self.name} where {self.counts}")

    @property
    def left_out(self) -> str:
        """SQL: aggregates that count the rows left out, one for each condition."""
        met, aggregates = "true", []
        for condition in self.conditions.values():
            aggregates.append(f"pg_catalog.count(*) filter (where {met} and ({condition}) is not true)")
            met += f" and {condition}"
        return ", ".join(aggregates)

    @property
    def left_out_query(self) -> str:
        """SQL: one row with the columns of `left_out`."""
        return f"select {self.left_out} from animora.{self.name}"


def present(*columns: str) -> str:
    """SQL: condition that none of some columns is null."""
    return " and ".join(f"{column} is not null" for column in columns)


# An infinite time is treated like null.
FINITE = "pg_catalog.isfinite(created_at)"

USERS = View("users", {"id": ColumnKind.ID}, {"missing": present("id")})
POSTS = View(
    "posts",
    {
        "id": ColumnKind.ID,
        "author_id": ColumnKind.ID,
        "created_at": ColumnKind.TIME,
        "updated_at": ColumnKind.TIME,
        "deleted_at": ColumnKind.TIME,
        "image_embedding": ColumnKind.EMBEDDING,
        "caption_embedding": ColumnKind.EMBEDDING,
    },
    {"missing": f"{present('id', 'author_id')} and {FINITE}"},
)
INTERACTIONS = View(
    "interactions",
    {
        "user_id": ColumnKind.ID,
        "post_id": ColumnKind.ID,
        "kind": ColumnKind.WORD,
        "created_at": ColumnKind.TIME,
    },
    {
        "missing": f"{present('user_id', 'post_id')} and {FINITE}",
        "kind": f"kind::text in ({', '.join(map(repr, INTERACTION_KINDS))})",
    },
)
BLOCKS = View(
    "blocks",
    {"blocker_id": ColumnKind.ID, "blocked_id": ColumnKind.ID, "created_at": ColumnKind.ANY},
    {"missing": present("blocker_id", "blocked_id"), "self": "blocker_id <> blocked_id"},
)
VIEWS = (USERS, POSTS, INTERACTIONS, BLOCKS)

USER_IDS = USERS.select("id", distinct=True).order_by("1")

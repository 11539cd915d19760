"""Server and trainer read a column of any type alike, or refuse it with the same advice."""

import numpy as np
import pytest

from animora_database.views import VIEWS

COLUMNS = {
    "users": {"id": "id"},
    "posts": {
        "id": "id",
        "author_id": "author_id",
        "created_at": "created_at",
        "updated_at": "updated_at",
        "deleted_at": "deleted_at",
        "image_embedding": "image_embedding",
        "caption_embedding": "caption_embedding",
    },
    "interactions": {"user_id": "user_id", "post_id": "post_id", "kind": "kind", "created_at": "created_at"},
    "blocks": {"blocker_id": "blocker_id", "blocked_id": "blocked_id", "created_at": "created_at"},
}
SOURCES = {
    "users": "animora_app.users",
    "posts": "animora_app.posts",
    "interactions": "(select user_id, post_id, 'like' as kind, created_at from animora_app.likes) as likes",
    "blocks": "animora_app.block_relations",
}
SOME_POSTS = """
insert into animora_app.posts (id, author_id, created_at, deleted_at, image_embedding, caption_embedding)
values (1, 1, '2024-05-06 07:08:09.123456+00', null, '{0.5, -2}', '{3}'),
       (2, 2, now(), null, '{1, 2}', null),
       (3, 3, now(), now(), null, '{4}')
"""
LATER = """
insert into animora_app.posts (id, author_id, created_at, image_embedding) values (4, 4, now(), '{3, 4}');
update animora_app.posts set deleted_at = now() where id = 2;
insert into animora_app.likes values (1, 1, now()), (2, 4, now());
insert into animora_app.block_relations values (1, 3);
"""


async def change(database, view, column, expression):
    """Replaces the expression of one column of a view."""
    columns = COLUMNS[view] | {column: expression}
    select = ", ".join(f"{value} as {name}" for name, value in columns.items())
    await database.execute(f"drop view animora.{view}")
    await database.execute(f"create view animora.{view} as select {select} from {SOURCES[view]}")


@pytest.mark.parametrize(
    ("view", "column", "expression"),
    [
        (view.name, column, f"{column}::{type_name}")
        for view in VIEWS
        for column in view.columns
        for type_name in ("int2", "int4", "natural_number")
        if column.endswith("id")
    ]
    + [
        ("interactions", "kind", f"kind::{type_name}")
        for type_name in ("varchar(9)", "char(9)", "name", "reaction")
    ]
    + [
        ("posts", column, f"{column}::{type_name}")
        for column in ("image_embedding", "caption_embedding")
        for type_name in ("double precision[]", "numbers", "vector", "halfvec")
    ]
    + [
        ("posts", "created_at", "created_at::moment"),
        ("posts", "updated_at", "null::timestamptz"),
        ("posts", "caption_embedding", "null::real[]"),
        ("blocks", "created_at", "null::text"),
    ],
)
async def test_unambiguous_types_are_read_alike_by_server_and_trainer(
    database, programs, view, column, expression
):
    await database.execute(
        "create extension vector; create domain natural_number as int4 check (value >= 0);"
        "create domain moment as timestamptz; create domain numbers as real[];"
        "create type reaction as enum ('like', 'comment', 'share')"
    )
    await change(database, view, column, expression)
    await database.execute(SOME_POSTS)

    assert await programs.load() == await programs.train()
    await database.execute(LATER)
    polled = await programs.poll(np.array([2, 3_000_000_000]))
    loaded = await programs.load()

    assert polled == loaded == await programs.train()
    posts, blocks = loaded
    assert {post_id: post[2] for post_id, post in posts.items()} == {1: False, 2: True, 3: True, 4: False}
    assert posts[1][1] == 1714979289.123456
    assert posts[1][5] == posts[4][5] == 1
    assert posts[4][3] == [3, 4]
    assert blocks == {1: [3], 3: [1]}


@pytest.mark.parametrize(
    ("view", "column", "expression", "remedy"),
    [
        ("users", "id", "id::text", "id is text and must be bigint: write id::bigint"),
        ("users", "id", "gen_random_uuid()", "id is uuid and must be bigint: write an integer column"),
        ("posts", "author_id", "author_id::numeric", "author_id is numeric and must be bigint"),
        ("interactions", "user_id", "user_id::float8", "user_id is double precision and must be bigint"),
        ("posts", "created_at", "created_at::timestamp", "write created_at at time zone 'UTC'"),
        ("posts", "created_at", "created_at::date", "write created_at::timestamp at time zone 'UTC'"),
        ("posts", "updated_at", "null", "updated_at is text .* write updated_at::timestamptz"),
        ("posts", "updated_at", "extract(epoch from created_at)", r"write to_timestamp\(updated_at\)"),
        ("posts", "deleted_at", "deleted_at is not null", "is boolean .* write case when deleted_at"),
        ("interactions", "created_at", "created_at::timestamp", "created_at is timestamp without time zone"),
        ("interactions", "kind", "1", "kind is integer and must be text: write kind::text"),
        ("posts", "caption_embedding", "null", "write caption_embedding::real.., or null::real.. where"),
        ("posts", "image_embedding", "array_to_json(image_embedding)", "is json .* parse_features"),
        ("posts", "image_embedding", "image_embedding::numeric[]", "write image_embedding::double precision"),
        ("posts", "image_embedding", "image_embedding::int[]", "write image_embedding::real"),
    ],
)  # fmt: skip
async def test_other_types_are_refused_with_a_suggested_cast(
    database, programs, view, column, expression, remedy
):
    await change(database, view, column, expression)

    server, trainer = await programs.refusals()

    assert server == trainer
    with pytest.raises(AssertionError, match=rf"^animora\.{view}: .*{remedy}"):
        raise AssertionError(server)


@pytest.mark.parametrize("view", [view.name for view in VIEWS])
async def test_a_missing_view_is_named(database, programs, view):
    await database.execute(f"drop view animora.{view}")

    for refusal in await programs.refusals():
        assert f"no view animora.{view}: apply deploy/sql/010_tables.sql" in refusal


async def test_a_missing_column_is_named(database, programs):
    await database.execute("alter view animora.posts rename updated_at to changed_at")

    for refusal in await programs.refusals():
        assert "animora.posts has no column updated_at" in refusal


@pytest.mark.parametrize("right", ["select on animora.blocks", "usage on schema animora"])
async def test_a_role_without_rights_gets_the_grant_statement(database, programs_of, right):
    await database.execute(f"revoke {right} from animora_reader")
    programs = programs_of("animora_reader")

    for refusal in await programs.refusals():
        assert "this role may not read" in refusal
        assert "deploy/sql/030_reader.sql" in refusal


async def test_rights_on_the_columns_alone_are_enough(database, programs_of):
    await database.execute("revoke select on animora.blocks from animora_reader")
    await database.execute(
        "grant select (blocker_id, blocked_id, created_at) on animora.blocks to animora_reader"
    )
    programs = programs_of("animora_reader")

    assert await programs.load() == await programs.train()


SETTINGS = [
    ("datestyle", "'SQL, DMY'"),
    ("datestyle", "'German'"),
    ("timezone", "'Asia/Kolkata'"),
    ("intervalstyle", "'iso_8601'"),
    ("bytea_output", "'escape'"),
    ("extra_float_digits", "'-15'"),
    ("search_path", "decoys"),
    ("statement_timeout", "'1'"),
    ("lock_timeout", "'1'"),
    ("idle_in_transaction_session_timeout", "'1'"),
    ("default_transaction_read_only", "'on'"),
    ("default_transaction_isolation", "'serializable'"),
    ("row_security", "'off'"),
    ("array_nulls", "'off'"),
    ("client_encoding", "'latin1'"),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
async def test_settings_of_the_role_change_nothing(database, programs, programs_of, name, value):
    await database.execute(SOME_POSTS)
    # A view may depend on them.
    await change(database, "posts", "created_at", "created_at::text::timestamp::timestamptz")
    await database.execute("create schema decoys; create table decoys.posts (id int)")
    await database.execute("grant select on animora.posts to animora_reader")
    role = f"reader_{name}"
    await database.execute(f"create role {role} login in role animora_reader")
    await database.execute(f"alter role {role} set {name} = {value}")
    theirs = programs_of(role)
    try:
        assert await theirs.load() == await theirs.train() == await programs.load()
        await database.execute(LATER)
        assert await theirs.poll(np.array([2])) == await theirs.train() == await programs.load()
    finally:
        await database.execute(f"drop role {role}")


ROWS = {
    "users": "(1), (2), (3), (null)",
    "posts": """
        (1, 1, timestamptz '2024-01-01', null::timestamptz, null::timestamptz, '{1, 2}'::real[],
            null::real[]),
        (2, 1, '2024-01-01', null, null, '{3, 4}', null),
        (2, 1, '2024-01-01', null, '2024-01-02', '{5, 6}', null),
        (2, 3, '2024-01-01', null, '2024-01-02', '{7, 8}', null),
        (3, 3, '2024-01-01', null, null, null, '{9}'), (3, 2, '2024-01-01', null, null, null, '{10}'),
        (4, 2, '0044-03-15 BC', null, null, null, null), (5, 2, '12000-01-01', null, null, null, null),
        (null, 1, now(), null, null, '{1}', null), (6, null, now(), null, null, '{1}', null),
        (7, 1, null, null, null, '{1}', null), (8, 1, 'infinity', null, null, '{1}', null),
        (9, 1, '-infinity', null, null, '{1}', null)""",
    "interactions": """
        (1, 1, 'like', timestamptz '2024-01-01'), (1, 1, 'comment', '2024-01-01'), (2, 1, 'like', now()),
        (1, 2, null, now()), (1, 2, 'share', '2024-01-01'), (1, 2, 'LIKE', now()),
        (null, 2, 'like', now()), (1, null, 'like', '2024-01-01'), (1, 2, 'like', null),
        (1, 2, 'like', 'infinity'), (1, 2, 'like', '-infinity'), (null, null, null, null)""",
    "blocks": "(1, 2, null), (1, 2, now()), (2, 3, now()), (3, 3, now()), (null, 1, now()), (1, null, now())",
}


async def test_invalid_rows_are_dropped_and_counted_alike(database, programs):
    for view, rows in ROWS.items():
        columns = ", ".join(COLUMNS[view])
        await database.execute(f"drop view animora.{view}")
        await database.execute(
            f"create view animora.{view} as select * from (values {rows}) as rows ({columns})"
        )

    loaded = await programs.load()

    assert loaded == await programs.train() == await programs.poll()
    posts, blocks = loaded
    assert {post_id: (post[0], post[2], post[3], post[4], post[5]) for post_id, post in posts.items()} == {
        1: (1, False, [1, 2], [], 3),
        2: (1, True, [5, 6], [], 0),
        3: (2, False, [], [10], 0),
        4: (2, False, [], [], 0),
        5: (2, False, [], [], 0),
    }
    assert blocks == {1: [2], 2: [1, 3], 3: [2]}
    left_out = {
        "users.missing": 1,
        "posts.missing": 5,
        "posts.duplicate": 3,
        "interactions.missing": 6,
        "interactions.kind": 3,
        "blocks.missing": 2,
        "blocks.self": 1,
    }
    assert {name: rows for name, rows in programs.described.left_out.items() if rows} == left_out
    assert {f"{view}.{reason}": rows for (view, reason), rows in programs.left_out.items()} == left_out


@pytest.mark.parametrize(
    "embedding", ["{1e300, 1}", "{nan, 1}", "{1, null}", "{{1, 2}}", "{1}", "{}", "{-inf, 1}"]
)
async def test_an_unusable_embedding_is_absent_for_both(database, programs, embedding):
    await database.execute(
        "alter table animora_app.posts add doubles double precision[];"
        "insert into animora_app.posts (id, author_id, doubles)"
        f" values (1, 1, '{embedding}'), (2, 1, '{{1, 2}}'), (3, 1, '{{3, 4}}'), (4, 1, null)"
    )
    await change(database, "posts", "image_embedding", "doubles")

    loaded = await programs.load()

    assert loaded == await programs.train() == await programs.poll()
    assert [post[3] for post in loaded[0].values()] == [[], [1, 2], [3, 4], []]


@pytest.mark.parametrize("wide", [1, 2, 3])
async def test_both_keep_the_most_frequent_width_and_of_a_tie_the_smaller(database, programs, wide):
    await database.execute(
        "insert into animora_app.posts (id, author_id, deleted_at, image_embedding)"
        " select id, 1, case when id = 1 then now() end,"
        f" array_fill(1::real, array[case when id <= {wide} then 3 else 2 end])"
        " from generate_series(1, 4) as id"
    )

    loaded = await programs.load()

    assert loaded == await programs.train()
    kept = 3 if wide == 3 else 2
    assert sorted(len(post[3]) for post in loaded[0].values()) == sorted(
        [kept] * (wide if kept == 3 else 4 - wide) + [0] * (4 - wide if kept == 3 else wide)
    )

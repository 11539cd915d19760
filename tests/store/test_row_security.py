"""Row-level security that hides rows from the server, over the tables of deploy/sql."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import CatalogSync, PostgresStore

ENABLED = "alter table animora_app.posts enable row level security;"
FORCED = "alter table animora_app.posts force row level security;"
INVOKER = (
    "alter view animora.posts set (security_invoker = true); grant usage on schema animora_app to {reader};"
)
GRANTED = "grant select on animora_app.posts to {reader};"
OWNED = "grant usage on schema animora_app to {other}; alter view animora.posts owner to {other};"


@pytest.fixture
async def roles(database):
    """Two roles of this test's own, of which one may read the views."""
    names = {"reader": "hidden_from", "other": "owner_of_views"}
    for name in names.values():
        await database.execute(f"create role {name} login")
    await database.execute("grant usage on schema animora to hidden_from, owner_of_views")
    await database.execute("grant select on all tables in schema animora to hidden_from")
    yield names
    for name in names.values():
        await database.execute(f"reassign owned by {name} to animora; drop owned by {name}; drop role {name}")


async def hidden_by(store):
    async with store.reading() as reading:
        return await reading.hidden()


@pytest.fixture
def reader(postgres_url, roles):
    url = postgres_url.replace("animora@", f"{roles['reader']}@")
    store = PostgresStore(DatabaseSettings(url=SecretStr(url)))
    yield store
    store.close()


@pytest.mark.parametrize(
    ("statements", "hidden"),
    [
        ("", []),
        (ENABLED, []),  # the view reads as its owner, a superuser
        (ENABLED + FORCED, []),
        (ENABLED + INVOKER + GRANTED, [("posts", "animora_app.posts", "hidden_from")]),
        (
            ENABLED + INVOKER.replace("true", "Yes") + GRANTED,
            [("posts", "animora_app.posts", "hidden_from")],
        ),
        (ENABLED + INVOKER.replace("true", "off") + GRANTED, []),
        (ENABLED + INVOKER + GRANTED + "alter role {reader} bypassrls;", []),
        (
            ENABLED + OWNED + "grant select on animora_app.posts to {other};",
            [("posts", "animora_app.posts", "owner_of_views")],
        ),
        (ENABLED + OWNED + "alter table animora_app.posts owner to {other};", []),
        (
            ENABLED + FORCED + OWNED + "alter table animora_app.posts owner to {other};",
            [("posts", "animora_app.posts", "owner_of_views")],
        ),
        (
            "alter table animora_app.comments enable row level security;"
            "alter view animora.interactions set (security_invoker = true);",
            [("interactions", "animora_app.comments", "hidden_from")],
        ),
        (
            "create view animora.inner_posts as select * from animora_app.posts;"
            "create or replace view animora.posts as"
            " select id, author_id, created_at, updated_at, deleted_at, image_embedding, caption_embedding"
            " from animora.inner_posts; alter view animora.inner_posts owner to {other};"
            "grant usage on schema animora_app to {other};"
            "grant select on animora_app.posts to {other};" + ENABLED,
            [("posts", "animora_app.posts", "owner_of_views")],
        ),
    ],
)
async def test_tables_with_row_security_are_found_through_views(database, roles, reader, statements, hidden):
    if statements:
        await database.execute(statements.format(**roles))

    assert await hidden_by(reader) == hidden


async def test_a_catalog_without_visible_posts_is_logged(database, roles, reader):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await database.execute("insert into animora_app.likes values (1, 1, now() - interval '1 hour')")
    await database.execute((ENABLED + INVOKER + GRANTED).format(**roles))
    registry = CollectorRegistry()
    loaded = asyncio.Event()

    async def publish(snapshot):
        assert len(snapshot) == 0
        loaded.set()

    settings = CatalogSettings(poll_interval=0.02, reconcile_interval=0.02)
    refresher = CatalogSync(reader, settings, CatalogMetrics(registry), publish)
    with capture_logs() as logs:
        for _ in range(2):
            await refresher.refresh()
            await refresher.count()
    for loop in refresher.loops:
        await loop.stop()

    warnings = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 2  # once each
    assert "row-level security of animora_app.posts" in warnings[0]
    assert "to the role hidden_from" in warnings[0]
    assert warnings[1].startswith("animora.posts shows no posts")
    assert registry.get_sample_value("animora_catalog_hiding_tables") == 1

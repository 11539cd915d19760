from contextlib import closing

from pydantic import SecretStr

from animora_artifact import FolderStore
from animora_server.catalog import NO_PREFERENCE, Widths
from animora_server.precompute.load import load_catalog, width_preference
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import PostgresStore


async def test_the_active_version_decides_on_the_width_of_embeddings(database, feed, models):
    preference = await width_preference(models)
    assert preference.serving == Widths(3, 2)
    await database.execute("update animora_app.posts set image_embedding = '{1, 2, 3, 4, 5}'")
    await database.execute(
        "update animora_app.posts set image_embedding = '{1, 2, 3}'"
        " where id = (select min(id) from animora_app.posts)"
    )

    with closing(PostgresStore(DatabaseSettings(url=SecretStr(feed.url)))) as store:
        async with store.reading() as reading:
            assert (await load_catalog(reading, CatalogSettings(), preference)).embeddings.image_width == 3
            assert (await load_catalog(reading, CatalogSettings())).embeddings.image_width == 5


async def test_without_an_active_version_most_posts_decide(tmp_path):
    assert await width_preference(None) == NO_PREFERENCE
    assert await width_preference(FolderStore(tmp_path)) == NO_PREFERENCE

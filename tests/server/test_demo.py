"""What the demo leaves to type next; `make demo` itself is for people to run."""

from pathlib import Path

from pydantic import SecretStr

from animora_server.configuration import load_settings
from animora_server.demo import SampleFeed
from animora_server.settings import Settings

FEED = SampleFeed(
    "postgresql://animora@/animora?host=/srv/f\u00fctter&sslmode=disable",
    'unix:///srv/"redis".sock?db=0',
    Path("models"),
)


def test_its_configuration_file_leads_other_commands_to_its_servers(tmp_path: Path):
    file = tmp_path / "animora.toml"
    file.write_text(FEED.configuration(), encoding="utf-8")
    settings, served = load_settings({}, file), FEED.serving(Settings())
    assert settings.database == served.database
    assert settings.cache == served.cache
    assert settings.models.store == served.models.store


def test_it_has_a_key_for_page_tokens_unless_one_is_configured():
    assert FEED.serving(Settings()).timeline.token_key
    key = SecretStr("sixteen bytes and more")
    configured = Settings.model_validate({"timeline": {"token_key": key}})
    assert FEED.serving(configured).timeline.token_key == key

"""The demo's configuration file and its refusals. No test runs the whole demo."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from animora_demo import SampleFeed
from animora_server.configuration import load_settings
from animora_server.settings import Settings
from tests.support.processes import animora_environment

FEED = SampleFeed(
    "postgresql://animora@/animora?host=/srv/f\u00fctter&sslmode=disable",
    'unix:///srv/"redis".sock?db=0',
    Path("models"),
)


def test_other_commands_use_the_demos_servers_by_its_configuration_file(tmp_path: Path):
    file = tmp_path / "animora.toml"
    file.write_text(FEED.configuration(), encoding="utf-8")
    settings, served = load_settings({}, file), FEED.serving(Settings())
    assert settings.database == served.database
    assert settings.cache == served.cache
    assert settings.models.store == served.models.store


def test_the_demo_has_a_page_token_key_unless_one_is_configured():
    assert FEED.serving(Settings()).timeline.token_key
    key = SecretStr("sixteen bytes and more")
    configured = Settings.model_validate({"timeline": {"token_key": key}})
    assert FEED.serving(configured).timeline.token_key == key


@pytest.mark.parametrize("section", ["grpc", "http"])
def test_a_port_that_is_taken_is_named_before_anything_is_started(section: str, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        done = demo(tmp_path, **{f"{section.upper()}_PORT": str(port)})
    assert done.returncode == 2
    assert done.stderr.startswith(f"animora-server: {section}.port: cannot listen on 127.0.0.1 port {port} (")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"GRPC_TLS_CERTIFICATE": "/absent.pem", "GRPC_TLS_KEY": "/absent.key"},
            "grpc.tls_certificate",
        ),
        ({"SCORER_DEVICE": "cuda:99"}, "scorer.device"),
        ({"MODELS_VERIFY_KEY": "/absent.pem"}, "models.verify_key"),
        ({"AUTH_TOKENS": "/absent.toml"}, "auth.tokens"),
    ],
)
def test_an_option_that_would_fail_after_training_is_refused_before_anything_is_started(
    options: dict[str, str], named: str, tmp_path: Path
):
    done = demo(tmp_path, **options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert named in done.stderr
    assert list(tmp_path.iterdir()) == []


def demo(directory: Path, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "animora_server", "demo", "--directory", str(directory)),
        env=animora_environment(**{"GRPC_PORT": "0", "HTTP_PORT": "0"} | options),
        capture_output=True,
        text=True,
        check=False,
    )

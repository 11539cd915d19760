from pathlib import Path

from animora_server.settings import Settings
from animora_server.workers.ipc_messages import decode_message, encode_message, encode_settings

SETTINGS = Settings.model_validate(
    {
        "database": {"url": "postgresql://u:hidden@localhost/db"},
        "catalog": {"directory": Path("/somewhere"), "max_block_age": 12.5},
        "grpc": {"insecure": True, "workers": 3},
        "timeline": {"token_key": "sixteen bytes or more"},
        "models": {"store": "/models"},
        "experiments": {
            "arms": {"canary": {"share": 5, "model_version": "v2", "timeline": {"recency_weight": 0.3}}}
        },
    }
)


def test_settings_reach_the_worker_unchanged_with_their_secrets():
    line = encode_message({"settings": encode_settings(SETTINGS)})
    assert line.count(b"\n") == 1
    arrived = Settings.model_validate(decode_message(line)["settings"])
    assert arrived == SETTINGS
    assert arrived.database.url.get_secret_value() == "postgresql://u:hidden@localhost/db"

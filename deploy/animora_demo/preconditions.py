"""What the demo needs, looked at before it takes minutes."""

import importlib.util

from animora_server.addresses import require_free
from animora_server.errors import ConfigurationError
from animora_server.inference.device import resolve_device
from animora_server.settings import Settings
from animora_server.tls import load_identity

# A module of each extra that the demo's child processes use.
MODULES = {"cli": "matplotlib", "training": "implicit"}


def check_preconditions(settings: Settings) -> None:
    """Checks all that would otherwise end the demo after its training.

    Raises:
        ConfigurationError: A port is taken, a certificate or the device cannot be used, an extra is not
            installed, or the demo's own model would be refused.
    """
    for section, addressed in (("grpc", settings.grpc), ("http", settings.http)):
        if addressed.port:
            require_free(section, addressed.host, addressed.port)
    load_identity(settings.grpc)
    resolve_device(settings.scorer.device)
    if settings.models.verify_key is not None:
        raise ConfigurationError("models.verify_key: the demo does not sign its model; unset the option")
    missing = [extra for extra, module in MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"the demo needs: pip install 'animora-ranking[{','.join(missing)}]'")

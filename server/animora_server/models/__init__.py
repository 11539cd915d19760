"""Follows the model store: loads the versions that `ACTIVE` and experiments name onto the device."""

from animora_server.models.activation import ModelActivator
from animora_server.models.model_store import open_models, open_writable_models, readable_active
from animora_server.models.version_keeper import VersionKeeper
from animora_server.models.version_loader import VersionLoader
from animora_server.models.watcher import ModelWatcher

__all__ = [
    "ModelActivator",
    "ModelWatcher",
    "VersionKeeper",
    "VersionLoader",
    "open_models",
    "open_writable_models",
    "readable_active",
]

"""The model store's watcher: brings the version that ACTIVE names onto the device."""

from animora_server.models.opening import open_models
from animora_server.models.watcher import ModelWatcher

__all__ = ["ModelWatcher", "open_models"]

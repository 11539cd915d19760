"""Follows the model store: loads the version that `ACTIVE` names onto the device."""

from animora_server.models.model_store import open_models
from animora_server.models.watcher import ModelWatcher

__all__ = ["ModelWatcher", "open_models"]

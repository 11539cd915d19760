"""The resident models: on the device, encoded for the catalog, scored in micro-batches."""

from animora_server.inference.catalog_encoder import CatalogEncoder
from animora_server.inference.model_manager import ModelManager

__all__ = ["CatalogEncoder", "ModelManager"]

"""Model inference: loads models onto the device, encodes the catalog for them and executes batches."""

from animora_server.inference.catalog_encoder import CatalogEncoder
from animora_server.inference.model_manager import ModelManager

__all__ = ["CatalogEncoder", "ModelManager"]

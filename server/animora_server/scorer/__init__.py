"""The resident models: on the device, encoded for the catalog, scored in micro-batches."""

from animora_server.scorer.binder import Binder
from animora_server.scorer.residency import Residency

__all__ = ["Binder", "Residency"]

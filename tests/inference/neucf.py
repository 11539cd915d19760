"""A NeuCF version as the trainer exports it, with native code."""

from dataclasses import replace
from datetime import UTC, datetime

from animora_artifact import Artifact
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.compilation import compile_score
from animora_training.pipeline.export import VersionOrigin, export
from tests.support.datasets import TINY, as_dataset, tiny_feed
from tests.support.networks import randomised

WIDTH = TINY.width  # of images and captions


def compiled_artifact() -> Artifact:
    """A version of the default shape with random weights."""
    data = as_dataset(tiny_feed())
    rows = training_set(data, data.pairs)
    network = randomised(new_initialization(rows, FitConfig()).network)
    version = export(network, rows, data.pairs, VersionOrigin(datetime.now(UTC), {}, {}))
    return replace(version, compiled=compile_score(version.manifest.dimensions, "cc"))

"""A version of NeuCF as the trainer makes it, with its compiled code."""

from dataclasses import replace
from datetime import UTC, datetime

from animora_artifact import Artifact
from animora_training.fitting.compilation import compile_score
from animora_training.fitting.export import Origin, export
from animora_training.learning.config import FitConfig
from animora_training.learning.start import new_start
from animora_training.learning.training_set import training_set
from tests.training.networks import randomised
from tests.training.worlds import TINY, as_dataset, tiny_feed

WIDTH = TINY.width  # of images and captions


def compiled_artifact() -> Artifact:
    """Of the default shape, with random weights."""
    data = as_dataset(tiny_feed())
    rows = training_set(data, data.pairs)
    network = randomised(new_start(rows, FitConfig()).network)
    version = export(network, rows, data.pairs, Origin(datetime.now(UTC), {}, {}))
    return replace(version, compiled=compile_score(version.manifest.dimensions, "cc"))

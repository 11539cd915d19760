"""A program of its own that exports a network with a large user table in little memory, see data.limited."""

import sys
from datetime import UTC, datetime

import numpy as np
import torch

from animora_artifact import Artifact
from animora_training.data.dataset import Interactions
from animora_training.fitting.export import Origin, export
from animora_training.learning.config import FitConfig
from animora_training.learning.network import NeuCF
from animora_training.learning.start import new_start
from animora_training.learning.training_set import TrainingSet
from tests.training.data.limited import allow
from tests.training.worlds import many_users


def exported(network: NeuCF, data: TrainingSet) -> Artifact:
    pairs = Interactions(np.array([0, 1]), np.array([0], np.int32), np.array([1e9]))
    return export(network, data, pairs, Origin(datetime.now(UTC), {}, {}))


def main() -> None:
    torch.set_num_threads(1)
    small, large = many_users(1000, 100), many_users(300_000, 100)
    exported(new_start(small, FitConfig()).network.eval(), small)  # libraries load much when first used
    network = new_start(large, FitConfig()).network.eval()
    allow(int(float(sys.argv[1]) * network.user_table.nbytes))
    sys.stdout.write(exported(network, large).manifest.version)


if __name__ == "__main__":
    main()

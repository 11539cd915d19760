"""A program that exports a network with a large user table in little memory, see data.limited."""

import sys
from datetime import UTC, datetime

import numpy as np
import torch

from animora_artifact import Artifact
from animora_training.data.dataset import Interactions
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.network import NeuCF
from animora_training.modeling.training_set import TrainingSet
from animora_training.pipeline.export import VersionOrigin, export
from tests.support.datasets import many_users
from tests.support.memory import allow


def exported(network: NeuCF, data: TrainingSet) -> Artifact:
    pairs = Interactions(np.array([0, 1]), np.array([0], np.int32), np.array([1e9]))
    return export(network, data, pairs, VersionOrigin(datetime.now(UTC), {}, {}))


def main() -> None:
    torch.set_num_threads(1)
    small, large = many_users(1000, 100), many_users(300_000, 100)
    exported(new_initialization(small, FitConfig()).network.eval(), small)  # libraries allocate on first use
    network = new_initialization(large, FitConfig()).network.eval()
    allow(int(float(sys.argv[1]) * network.user_table.nbytes))
    sys.stdout.write(exported(network, large).manifest.version)


if __name__ == "__main__":
    main()

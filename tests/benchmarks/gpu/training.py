"""The training part of `make bench-gpu`: samples a second of the trainer on made-up likes.

The likes are those of `make bench-train`, of MovieLens 1M's size. A sample is a pair of a user and a post,
positive or negative, that is scored and learned from.
"""

import statistics
import time
from dataclasses import replace

import torch

from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.trainer import Trainer
from animora_training.modeling.training_set import TrainingSet, training_set
from tests.benchmarks.gpu.figures import NETWORKS, training_name
from tests.benchmarks.gpu.measuring import Options, report, say
from tests.support.datasets import as_dataset
from tests.support.synthetic_feed import PAIRS, POSTS, USERS, synthetic_feed

SMALL = (60, 100, 1_200)  # users, posts, pairs
MAX_EPOCHS = 20
NARROW = FitConfig(factors=8, mlp_embedding=8, hidden=(32, 16, 8), embeddings=False, max_epochs=100)
CONFIGS = dict(
    zip(
        NETWORKS, (NARROW, replace(NARROW, factors=64, mlp_embedding=128, hidden=(256, 128, 64))), strict=True
    )
)


def samples_per_second(data: TrainingSet, config: FitConfig, device: torch.device, budget: float) -> float:
    """Median of the epochs after the first, two at least, that fit into a budget in seconds."""
    ends_at = time.perf_counter() + budget
    start = new_initialization(data, config).to(device)
    trainer = Trainer(data.to(device), config, start, ProcessGroup())
    speeds: list[float] = []
    epochs = trainer.epochs()
    next(epochs)  # warms up
    while len(speeds) < 2 or (len(speeds) < MAX_EPOCHS and time.perf_counter() < ends_at):
        began = time.perf_counter()
        epoch = next(epochs)  # its end waits for the device
        speeds.append(epoch.pairs / (time.perf_counter() - began))
    return statistics.median(speeds)


def main(options: Options) -> None:
    """Measures each network within its part of the time."""
    began = time.perf_counter()
    dataset = as_dataset(synthetic_feed(0, *(SMALL if options.small else (USERS, POSTS, PAIRS))))
    data = training_set(dataset, dataset.pairs)
    say(f"training: {len(data.posts):,} likes of {data.users - 1:,} users made up")
    for number, (name, config) in enumerate(CONFIGS.items()):
        left = options.seconds - (time.perf_counter() - began)
        budget = 0.7 * left / (len(CONFIGS) - number)
        report(training_name(name), samples_per_second(data, config, options.device, budget))


if __name__ == "__main__":
    main(Options.parse())

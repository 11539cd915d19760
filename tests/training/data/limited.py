"""A program of its own that reads, splits and trains on a data set with little memory of its own.

The limit (RLIMIT_DATA) is on what a process allocates; files that it maps, which the kernel may
drop from memory at any time, do not count.
"""

import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from animora_training.data.database import connect
from animora_training.data.dataset import Dataset
from animora_training.data.reading import read_dataset
from animora_training.data.split import leave_one_out
from animora_training.learning.config import FitConfig
from animora_training.learning.ranks import Ranks
from animora_training.learning.start import new_start
from animora_training.learning.trainer import Trainer
from animora_training.learning.training_set import training_set
from tests.training.worlds import as_dataset, tiny_feed

NEGATIVES = 5
# The tables of a model and of Adam are in memory; those of this one are small.
SMALL = FitConfig(
    factors=2,
    mlp_embedding=2,
    hidden=(2,),
    feature_width=2,
    factorisation="none",
    users_per_step=32,
    posts_per_step=256,
)


def ignore(*progress):
    pass


def allow(headroom: int) -> None:
    """Sets the limit to what the process has now and so many bytes more."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(lines["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + headroom, now + headroom))


async def read(url: str, folder: Path) -> Dataset:
    async with connect(url) as connection:
        return await read_dataset(connection, folder, ignore)


def train(dataset: Dataset, folder: Path) -> dict[str, float]:
    """Trains an epoch on what a split leaves, memory-mapped."""
    split = leave_one_out(dataset, NEGATIVES, np.random.default_rng(0))
    rows = training_set(dataset, split.remaining, folder)
    trainer = Trainer(rows, SMALL, new_start(rows, SMALL), Ranks())
    epoch = next(trainer.epochs())
    return {"held_out": len(split.held_out.users), "positives": len(rows.posts), "pairs": epoch.pairs}


def can_copy(dataset: Dataset) -> bool:
    """Whether there is memory for what a program does that keeps a data set there."""
    posts, interactions = dataset.posts, (dataset.events, dataset.pairs)
    arrays = [posts.image, posts.caption, *(part for one in interactions for part in (one.posts, one.times))]
    try:
        return len([np.array(array) for array in arrays]) == len(arrays)
    except MemoryError:
        return False


def main() -> None:
    url, folder, headroom = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    # Libraries load much when they are first used, whatever the data.
    with tempfile.TemporaryDirectory() as small:
        train(as_dataset(tiny_feed()), Path(small))
    allow(headroom)
    dataset = asyncio.run(read(url, folder))
    done = {**train(dataset, folder / "training"), "can_copy": can_copy(dataset)}
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    main()

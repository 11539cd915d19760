"""A program that reads a data set and fits a model within a memory limit.

The limit (RLIMIT_DATA) is on what a process allocates; files that it maps, which the kernel may
drop from memory at any time, do not count.
"""

import asyncio
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from animora_training.data.database import Database, connect
from animora_training.data.dataset import Dataset
from animora_training.data.folder import open_dataset
from animora_training.data.reading import read_dataset
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import SINGLE_PROCESS, ProcessGroup
from animora_training.pipeline.checkpoint import Checkpoints
from animora_training.pipeline.fit import FitContext, fit
from animora_training.pipeline.run import FitObserver, run
from animora_training.pipeline.run_folder import RunFolder
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.memory import allow

# The tables of model and optimizer, and the input of the factorisation, are in memory.
SMALL = FitConfig(
    factors=2,
    mlp_embedding=2,
    hidden=(2,),
    feature_width=2,
    als_alpha=10.0,
    als_regularisation=20.0,
    als_iterations=2,
    pairs_in_memory=50_000,
    users_per_step=4,
    posts_per_step=256,
    max_epochs=1,
)
CPU = torch.device("cpu")


def ignore(*progress):
    pass


async def read(url: str, folder: Path) -> Dataset:
    async with connect(Database(url)) as connection:
        return await read_dataset(connection, folder, ignore)


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
    # Libraries allocate on first use, independent of the data.
    with tempfile.TemporaryDirectory() as small:
        context = FitContext(
            datetime.now(UTC), CPU, SINGLE_PROCESS, Checkpoints(None, ""), ignore, scratch=Path(small)
        )
        fit(as_dataset(tiny_feed()), SMALL, context)
    allow(headroom)
    watch = FitObserver(lambda data: asyncio.run(read(url, data)), on_epoch=ignore)
    fitted = run(RunFolder(folder), SMALL, ProcessGroup(), CPU, watch)
    assert fitted is not None
    record = fitted.record
    done = {
        "judged_users": record.data.judged_users,
        "interactions": record.data.interactions,
        "stages": [epoch.stage for epoch in record.epochs],
        "can_copy": can_copy(open_dataset(folder / "data")),
    }
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    main()

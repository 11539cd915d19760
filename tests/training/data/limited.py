"""A program of its own that reads, splits and goes through a data set with little memory of its own.

The limit (RLIMIT_DATA) is on what a process allocates; files that it maps, which the kernel may
drop from memory at any time, do not count.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path

import numpy as np

from animora_training.data.database import connect
from animora_training.data.dataset import Dataset
from animora_training.data.folder import open_dataset
from animora_training.data.reading import read_dataset
from animora_training.data.split import leave_one_out

NEGATIVES = 5


def ignore(*progress):
    pass


def allow(headroom: int) -> None:
    """Sets the limit to what the process has now and so many bytes more."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(lines["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + headroom, now + headroom))


async def read(url: str, folder: Path) -> None:
    async with connect(url) as connection:
        await read_dataset(connection, folder, ignore)


def go_through(dataset: Dataset) -> dict[str, float]:
    """Makes a split, and looks at every number once."""
    split = leave_one_out(dataset, NEGATIVES, np.random.default_rng(0))
    trained = times = 0.0
    for chunk in split.remaining.chunks():
        trained += len(chunk)
        times += float(chunk.times.sum())
    image = sum(
        float(dataset.posts.image[start : start + 1000].astype(np.float32).sum())
        for start in range(0, len(dataset.posts.ids), 1000)
    )
    return {"held_out": len(split.held_out.users), "trained": trained, "times": times, "image": image}


def copy_all(dataset: Dataset) -> int:
    """What a program does that keeps a data set in memory."""
    posts, interactions = dataset.posts, (dataset.events, dataset.pairs)
    arrays = [posts.image, posts.caption, *(part for one in interactions for part in (one.posts, one.times))]
    return sum(array.nbytes for array in [np.array(array) for array in arrays])


def main() -> None:
    url, folder, headroom, job = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    allow(headroom)
    if job == "copy":
        copy_all(open_dataset(folder))
    else:
        asyncio.run(read(url, folder))
        sys.stdout.write(json.dumps(go_through(open_dataset(folder))))


if __name__ == "__main__":
    main()

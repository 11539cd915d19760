"""A folder in the NCF format whose times tell nothing."""

from pathlib import Path

import numpy as np

from animora_training.importers.ncf_format import find_files, read_ratings
from tests.benchmarks.ncf_negatives import link

SEED = 0


def with_shuffled_times(data: Path, folder: Path) -> Path:
    """A copy of the data's folder in which each user's training pairs have swapped their times at random.

    The test pairs stay, so that everything that ignores order has the same metrics as before.

    Raises:
        InvalidInput: The data are not in the format.
    """
    files = find_files(data)
    copy = folder / f"{data.resolve().name}-shuffled"
    link((files.test, files.negatives, files.image, files.caption), copy)
    train = read_ratings(files.train)
    rng = np.random.default_rng(SEED)
    by_user = np.argsort(train.users, kind="stable")
    at_random = np.lexsort((rng.random(len(train.users)), train.users))
    times = np.empty(len(train.times))
    times[by_user] = train.times[at_random]
    rows = zip(train.users.tolist(), train.items.tolist(), times.tolist(), strict=True)
    (copy / f"{copy.name}.train.rating").write_text(
        "".join(f"{user}\t{item}\t1\t{time!r}\n" for user, item, time in rows)
    )
    return copy

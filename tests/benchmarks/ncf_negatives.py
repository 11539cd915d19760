"""Draws negatives for a folder in the NCF format that has none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from animora_training.importers.ncf_format import (
    NcfFolder,
    Ratings,
    find_files,
    read_ratings,
    read_test_pairs,
)

NEGATIVES = 99
SEED = 0


def with_negatives(data: Path, folder: Path, out: Console) -> Path:
    """The data's folder, or a copy of it with drawn negatives if it has none.

    Each test pair gets up to NEGATIVES of the items that its user never interacted with.

    Raises:
        InvalidInput: The data are not in the format.
        RuntimeError: They have no test pairs.
    """
    files = find_files(data)
    if files.negatives is not None and (read_test_pairs(files.negatives).present[:, 1:]).any():
        return data
    if files.test is None:
        raise RuntimeError(f"{data} has neither *.test.rating nor *.test.negative: there is nothing to rank")
    complete = folder / data.resolve().name
    link((files.train, files.test, files.image, files.caption), complete)
    lines = _drawn(files, read_ratings(files.test))
    (complete / f"{data.resolve().name}.test.negative").write_text("".join(lines))
    out.print(f"the folder has no negatives: up to {NEGATIVES} were drawn for each test pair")
    return complete


def link(files: Sequence[Path | None], folder: Path) -> None:
    """Makes a folder with links to the files that there are."""
    folder.mkdir()
    for file in files:
        if file is not None:
            (folder / file.name).symlink_to(file.resolve())


def _drawn(files: NcfFolder, test: Ratings) -> list[str]:
    train = read_ratings(files.train)
    items = np.unique(np.concatenate((train.items, test.items)))
    rng = np.random.default_rng(SEED)
    lines = []
    for user, item in zip(test.users.tolist(), test.items.tolist(), strict=True):
        touched = np.concatenate((train.items[train.users == user], test.items[test.users == user]))
        others = np.setdiff1d(items, touched)
        chosen = rng.choice(others, min(NEGATIVES, len(others)), replace=False).tolist()
        lines.append("\t".join([f"({user},{item})", *map(str, chosen)]) + "\n")
    return lines

"""Reads the test pairs of a data set in the NCF text format for evaluation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animora_training.data.candidates import without_repeats
from animora_training.data.dataset import ABSENT, Dataset, index_of
from animora_training.data.split import HeldOut
from animora_training.errors import InvalidInput
from animora_training.importers.ncf_format import TestPairs, find_files, read_ratings, read_test_pairs


@dataclass(frozen=True, slots=True)
class NcfHeldOut:
    """Test pairs that can be ranked, and the number of users whose pair cannot."""

    held_out: HeldOut
    skipped: int


def read_held_out(folder: Path, dataset: Dataset) -> NcfHeldOut:
    """Reads test pairs and negatives as indices into a data set.

    Candidates that the server would drop are removed: unknown, deleted and blocked posts, and repetitions.
    Pairs whose user is unknown, or whose held-out item is unknown, deleted or blocked, are skipped and
    counted.

    Raises:
        InvalidInput: `*.test.negative` is missing or invalid, or has other pairs than `*.test.rating`.
    """
    files = find_files(folder)
    if files.negatives is None:
        raise InvalidInput(f"{folder}: holds no file *.test.negative or *.test.negative.gz to evaluate with")
    pairs = read_test_pairs(files.negatives)
    if files.test is not None:
        _check_agreement(files.test, files.negatives, pairs)
    users = index_of(pairs.users, dataset.user_ids)
    candidates = np.where(pairs.present, index_of(pairs.candidates, dataset.posts.ids), ABSENT)
    hidden = dataset.posts.deleted[candidates] | dataset.blocked(users[:, None], candidates)
    candidates = without_repeats(np.where(hidden, ABSENT, candidates))
    usable = (users != ABSENT) & (candidates[:, 0] != ABSENT)
    held_out = HeldOut(users, candidates, np.zeros(len(users)))
    return NcfHeldOut(held_out.take(usable), skipped=int((~usable).sum()))


def _check_agreement(test: Path, negatives: Path, pairs: TestPairs) -> None:
    ratings = read_ratings(test)
    rated = set(zip(ratings.users.tolist(), ratings.items.tolist(), strict=True))
    listed = set(zip(pairs.users.tolist(), pairs.candidates[:, 0].tolist(), strict=True))
    if rated != listed:
        user, item = min(rated ^ listed)
        raise InvalidInput(f"{test.name} and {negatives.name} differ: only one of them has ({user},{item})")

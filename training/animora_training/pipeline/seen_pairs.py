"""The pairs that an earlier fit was trained on; a warm start from it cannot be evaluated on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animora_training.data.arrays import map_array
from animora_training.data.dataset import ABSENT, BoolArray, Dataset, IntArray, PostIndices, Rows, index_of
from animora_training.errors import InvalidInput

# The files of a data set that define its pairs.
PAIRS = ("user_ids.npy", "post_ids.npy", "pair_offsets.npy", "pair_posts.npy")


@dataclass(frozen=True, slots=True)
class SeenPairs:
    """The training pairs of a fit, memory-mapped.

    Attributes:
        user_ids: int64 (u), ascending.
        post_ids: int64 (p), ascending.
        offsets: int64 (u + 1); the posts of user i are posts[offsets[i] : offsets[i + 1]].
        posts: int32 (n), indices into the posts.
    """

    user_ids: IntArray
    post_ids: IntArray
    offsets: IntArray
    posts: PostIndices

    @classmethod
    def open(cls, folder: Path) -> "SeenPairs":
        """Opens the pairs of a data set's folder, which must hold the files PAIRS.

        Raises:
            InvalidInput: A file is missing or damaged, or the arrays do not fit together.
        """
        try:
            user_ids, post_ids, offsets, posts = (map_array(folder / name) for name in PAIRS)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{folder}: cannot be read: {error}") from error
        kinds = [(array.dtype, array.ndim) for array in (user_ids, post_ids, offsets, posts)]
        expected = [*[(np.dtype(np.int64), 1)] * 3, (np.dtype(np.int32), 1)]
        if kinds != expected or len(offsets) != len(user_ids) + 1 or offsets[-1] != len(posts):
            raise InvalidInput(f"{folder}: its arrays do not belong together")
        return cls(user_ids, post_ids, offsets, posts)

    def contains(self, dataset: Dataset, rows: Rows) -> BoolArray:
        """Bool (n): the rows of a data set, ascending by user, that are training pairs."""
        if not len(rows):
            return np.zeros(0, np.bool_)
        ids = dataset.user_ids[rows.users]
        first = int(np.searchsorted(self.user_ids, ids[0]))
        end = int(np.searchsorted(self.user_ids, ids[-1], side="right"))
        lengths = np.diff(self.offsets[first : end + 1])
        theirs = np.repeat(np.arange(first, end), lengths) * len(self.post_ids)
        theirs += self.posts[self.offsets[first] : self.offsets[end]]
        users = index_of(ids, self.user_ids)
        posts = index_of(dataset.posts.ids[rows.posts], self.post_ids)
        known = (users != ABSENT) & (posts != ABSENT)
        found: BoolArray = known & (index_of(users * len(self.post_ids) + posts, np.sort(theirs)) != ABSENT)
        return found

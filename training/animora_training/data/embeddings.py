"""A column of embeddings on its way from a COPY stream into a float16 file, many rows at a time."""

from collections.abc import Sequence

import numpy as np

from animora_training.data.arrays import ArrayFile
from animora_training.data.dataset import Embeddings
from animora_training.data.pgcopy import ELEMENT, REAL_OID, decode_real_array
from animora_training.errors import DatabaseError

FLOAT16_MAX = float(np.finfo(np.float16).max)
EMPTY = 12  # bytes of an array without dimensions
# What the header of an array of one dimension and without nulls begins with; its lower bound may be any.
HEADER = (1, 0, REAL_OID)


class EmbeddingColumn:
    """The embeddings of one column of animora.posts, all of one width or null."""

    def __init__(self, name: str, file: ArrayFile) -> None:
        """Names the column, for errors, and an open file of no width."""
        self._name = name
        self._file = file
        self._width = 0

    def append(self, post_ids: Sequence[int], fields: Sequence[memoryview | None]) -> None:
        """Takes the embeddings of some posts, each a field of type real[]; an empty one counts as null.

        Raises:
            DatabaseError: One is of another width than those before, or holds what no float16 can.
            CannotWrite: The disk is full, or failed.
        """
        present = [at for at, field in enumerate(fields) if field is not None and len(field) > EMPTY]
        vectors = [field for field in fields if field is not None and len(field) > EMPTY]
        if vectors and not self._width:
            self._width = self._decode_one(post_ids[present[0]], vectors[0])
            self._file.widen(self._width)
        matrix = np.zeros((len(fields), self._width), np.float16)
        if vectors:
            matrix[present] = self._decode([post_ids[at] for at in present], vectors)
        self._file.append(matrix)

    def _decode(self, post_ids: Sequence[int], vectors: Sequence[memoryview]) -> Embeddings:
        layout = np.dtype([("header", ">i4", 5), ("elements", ELEMENT, (self._width,))])
        alike = all(len(vector) == layout.itemsize for vector in vectors)
        rows = np.frombuffer(b"".join(vectors), layout) if alike else np.empty(0, layout)
        expected = (*HEADER, self._width)
        if not alike or (rows["header"][:, : len(expected)] != expected).any():
            self._refuse(post_ids, vectors)
        values = rows["elements"]["value"].astype(np.float32)
        within = (np.abs(values) <= FLOAT16_MAX).all(axis=1)
        if not within.all():
            raise self._error(
                post_ids[int(np.argmin(within))],
                f"holds a number that is not finite or beyond {FLOAT16_MAX:g}",
            )
        return values.astype(np.float16)

    def _refuse(self, post_ids: Sequence[int], vectors: Sequence[memoryview]) -> None:
        """Raises the error of the first embedding that is not like the others."""
        for post_id, vector in zip(post_ids, vectors, strict=True):
            width = self._decode_one(post_id, vector)
            if width != self._width:
                raise self._error(post_id, f"has {width} numbers, others have {self._width}")

    def _decode_one(self, post_id: int, vector: memoryview) -> int:
        """The width of an embedding.

        Raises:
            DatabaseError: It has several dimensions, or holds a null.
        """
        try:
            return len(decode_real_array(vector))
        except ValueError as error:
            raise self._error(post_id, str(error)) from error

    def _error(self, post_id: int, what: str) -> DatabaseError:
        return DatabaseError(f"animora.posts: {self._name} of post {post_id} {what}")

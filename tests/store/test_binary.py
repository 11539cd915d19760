import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import EmbeddingRecords
from animora_server.errors import StoreError
from animora_server.store.binary import (
    TRAILER,
    EmbeddingRows,
    FixedColumns,
    decode_array,
    decode_vector,
    without_header,
)

REAL = 700  # PostgreSQL's number of the type


def row(*fields):
    encoded = [
        struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field for field in fields
    ]
    return struct.pack(">h", len(fields)) + b"".join(encoded)


def bigint(value):
    return struct.pack(">q", value)


def real_array(*values):
    return struct.pack(">iiIii", 1, 0, REAL, len(values), 1) + b"".join(
        struct.pack(">if", 4, value) for value in values
    )


def vector(*values):
    return struct.pack(f">hh{len(values)}f", len(values), 0, *values)


def fed(decoder, data, cuts):
    """What is left after data was fed in parts that end at the cuts."""
    rest = b""
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        rest = decoder.feed(rest + data[start:stop])
    return rest


def test_the_header_and_its_extension_are_cut_off():
    assert without_header(b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 3) + b"abcrows") == b"rows"


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.booleans())), st.lists(st.integers(0, 1000)))
def test_fixed_columns_are_the_same_however_the_bytes_arrive(values, cuts):
    columns = FixedColumns((">i8", "?"))
    data = b"".join(row(bigint(number), bytes([flag])) for number, flag in values) + TRAILER

    assert fed(columns, data, cuts) == TRAILER
    numbers, flags = columns.columns()
    assert list(zip(numbers.tolist(), flags.tolist(), strict=True)) == values
    assert numbers.dtype == np.int64


@pytest.mark.parametrize(
    "bad", [row(None, b"\1"), row(bigint(1), None), row(b"\0" * 4, b"\1"), row(bigint(1), b"\1", b"\1")]
)
def test_a_field_of_another_width_is_an_error_or_is_left_over(bad):
    good = row(bigint(1), b"\1")
    columns = FixedColumns((">i8", "?"))

    def feed():
        if columns.feed(good + bad + good + TRAILER) != TRAILER:
            raise StoreError("left over")

    with pytest.raises(StoreError):
        feed()


@given(st.lists(st.integers(0, 2000)))
def test_embeddings_are_the_same_however_the_bytes_arrive(cuts):
    batches: list[EmbeddingRecords] = []
    rows = EmbeddingRows(decode_array, decode_vector, batches.append)
    data = (
        row(bigint(-7), real_array(1, 2), vector(0.5))
        + row(bigint(8), None, vector(1.5))
        + row(bigint(9), real_array(3, 4), None)
        + TRAILER
    )

    assert fed(rows, data, cuts) == TRAILER
    found = [
        (post_id, image, caption)
        for batch in batches
        for post_id, image, caption in zip(batch.ids, batch.images, batch.captions, strict=True)
    ]
    assert [post_id for post_id, _, _ in found] == [-7, 8, 9]
    assert [None if image is None else image.tolist() for _, image, _ in found] == [[1, 2], None, [3, 4]]
    assert [None if caption is None else caption.tolist() for _, _, caption in found] == [[0.5], [1.5], None]


@pytest.mark.parametrize(
    "field",
    [
        struct.pack(">iiI", 0, 0, REAL),
        struct.pack(">iiIiiii", 2, 0, REAL, 1, 1, 1, 1) + struct.pack(">if", 4, 1.0),
        struct.pack(">iiIii", 1, 1, REAL, 2, 1) + struct.pack(">ifi", 4, 1.0, -1),
    ],
    ids=["empty", "two dimensions", "a null inside"],
)
def test_an_array_that_is_no_list_of_numbers_is_empty(field):
    assert len(decode_array(memoryview(field))) == 0

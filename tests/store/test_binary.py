import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_database.embeddings import DECODERS
from animora_server.catalog import EmbeddingRecords
from animora_server.errors import StoreError
from animora_server.store.binary import (
    TRAILER,
    EmbeddingRows,
    FixedColumns,
    without_header,
)
from tests.support.embeddings import values

REAL, DOUBLE = 700, 701  # PostgreSQL's numbers of the types


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


def double_array(*values):
    return struct.pack(">iiIii", 1, 0, DOUBLE, len(values), 1) + b"".join(
        struct.pack(">id", 8, value) for value in values
    )


def vector(*values):
    return struct.pack(f">hh{len(values)}f", len(values), 0, *values)


def fed(decoder, data, cuts):
    """Feeds data in parts that end at the cuts; returns the rest."""
    rest = b""
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        rest = decoder.feed(rest + data[start:stop])
    return rest


def found_in(batches):
    """Ids, images and captions."""
    return [
        post
        for batch in batches
        for post in zip(batch.ids.tolist(), values(batch.images), values(batch.captions), strict=True)
    ]


def test_the_header_and_its_extension_are_removed():
    assert without_header(b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 3) + b"abcrows") == b"rows"


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.booleans())), st.lists(st.integers(0, 1000)))
def test_fixed_columns_do_not_depend_on_how_the_bytes_are_split(values, cuts):
    columns = FixedColumns((">i8", "?"))
    data = b"".join(row(bigint(number), bytes([flag])) for number, flag in values) + TRAILER

    assert fed(columns, data, cuts) == TRAILER
    numbers, flags = columns.columns()
    assert list(zip(numbers.tolist(), flags.tolist(), strict=True)) == values
    assert numbers.dtype == np.int64


@pytest.mark.parametrize(
    "bad", [row(None, b"\1"), row(bigint(1), None), row(b"\0" * 4, b"\1"), row(bigint(1), b"\1", b"\1")]
)
def test_a_field_of_another_width_is_an_error_or_a_rest(bad):
    good = row(bigint(1), b"\1")
    columns = FixedColumns((">i8", "?"))

    def feed():
        if columns.feed(good + bad + good + TRAILER) != TRAILER:
            raise StoreError("left over")

    with pytest.raises(StoreError):
        feed()


EMBEDDINGS = st.none() | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("type_name", "encoded"), [("_float4", real_array), ("_float8", double_array), ("vector", vector)]
)
@given(
    posts=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), EMBEDDINGS, EMBEDDINGS)),
    cuts=st.lists(st.integers(0, 2000)),
)
def test_embeddings_do_not_depend_on_how_the_bytes_are_split(type_name, encoded, posts, cuts):
    decode = DECODERS[type_name]
    batches: list[EmbeddingRecords] = []
    data = b""
    for post_id, *both in posts:
        data += row(bigint(post_id), *(None if value is None else encoded(*value) for value in both))

    assert fed(EmbeddingRows(decode, decode, batches.append), data + TRAILER, cuts) == TRAILER
    assert found_in(batches) == posts


def test_float16_embeddings_stay_float16():
    batches: list[EmbeddingRecords] = []
    rows = EmbeddingRows(DECODERS["halfvec"], DECODERS["vector"], batches.append)

    rows.feed(row(bigint(1), struct.pack(">hh2e", 2, 0, 0.5, -2.0), vector(3)) + TRAILER)

    assert found_in(batches) == [(1, [0.5, -2.0], [3.0])]
    assert batches[0].images.blocks[2].dtype == ">f2"


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">iiI", 0, 0, REAL),
        struct.pack(">iiIiiii", 2, 0, REAL, 1, 1, 1, 1) + struct.pack(">if", 4, 1.0),
        struct.pack(">iiIii", 1, 1, REAL, 2, 1) + struct.pack(">ifi", 4, 1.0, -1),
    ],
    ids=["empty", "two dimensions", "a null inside"],
)
def test_an_unusable_array_does_not_affect_its_neighbours(bad):
    batches: list[EmbeddingRecords] = []
    fields = [real_array(1), bad, real_array(2), real_array(3, 4), bad, None]

    EmbeddingRows(DECODERS["_float4"], DECODERS["_float4"], batches.append).feed(
        b"".join(row(bigint(1), field, None) for field in fields) + TRAILER
    )

    assert [image for _, image, _ in found_in(batches)] == [[1.0], [], [2.0], [3.0, 4.0], [], None]


FIELDS = {
    "_float4": real_array(1, 2),
    "_float8": double_array(1, 2),
    "vector": vector(1, 2),
    "halfvec": struct.pack(">hh2e", 2, 0, 1.0, 2.0),
}


@pytest.mark.parametrize("expected", FIELDS)
@pytest.mark.parametrize("sent", FIELDS)
def test_a_field_of_another_type_of_embeddings_is_an_error(expected, sent):
    rows = EmbeddingRows(DECODERS["vector"], DECODERS[expected], lambda _: None)
    data = row(bigint(1), None, FIELDS[sent]) + TRAILER
    if sent == expected:
        rows.feed(data)
    else:
        with pytest.raises(StoreError, match=r"animora\.posts was changed while it was read"):
            rows.feed(data)


@pytest.mark.parametrize("bad", [row(bigint(1), vector(1)), row(b"\0" * 4, vector(1), vector(1))])
def test_a_row_of_other_columns_is_an_error(bad):
    rows = EmbeddingRows(DECODERS["vector"], DECODERS["vector"], lambda _: None)

    with pytest.raises(StoreError):
        rows.feed(bad + TRAILER + bytes(20))

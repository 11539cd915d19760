import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_database import copy_format
from animora_database.copy_format import TRAILER, EmbeddingRows, FixedRows, encode_row, without_header
from animora_database.embeddings import DECODERS, UNUSABLE
from animora_database.errors import UnusableView
from animora_database.views import POSTS, ViewQuery
from tests.support.embeddings import values

REAL, DOUBLE = 700, 701  # PostgreSQL's numbers of the types
INT64 = st.integers(-(2**63), 2**63 - 1)
EIGHT = st.binary(min_size=8, max_size=8)
CUTS = st.lists(st.integers(0, 2000))
EMBEDDINGS_OF_POSTS = POSTS.select("id", "image_embedding", "caption_embedding")


def row(*fields):
    return encode_row(fields)


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


def feed(decoder, data, cuts=()):
    """Feeds a whole COPY without its header in parts that end at the cuts."""
    rest = b""
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        rest = decoder.feed(rest + data[start:stop])
    decoder.finish(rest)


def fixed_rows(types, take=lambda columns: None):
    return FixedRows(ViewQuery("posts", types, ""), take)


def embedding_rows(image, caption, posts):
    """Decodes embeddings and appends (id, image, caption) of each post, as lists."""

    def take(columns, images, captions):
        posts.extend(zip(columns[0].tolist(), values(images), values(captions), strict=True))

    return EmbeddingRows(EMBEDDINGS_OF_POSTS, (DECODERS[image], DECODERS[caption]), take)


def test_the_header_and_its_extension_are_removed():
    assert without_header(b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 3) + b"abcrows") == b"rows"


@given(st.lists(st.tuples(INT64, st.booleans())), CUTS)
def test_fixed_columns_do_not_depend_on_how_the_bytes_are_split(rows, cuts):
    parts: list[copy_format.Columns] = []
    data = b"".join(row(bigint(number), bytes([flag])) for number, flag in rows) + TRAILER

    feed(fixed_rows({"id": ">i8", "gone": "?"}, parts.append), data, cuts)

    numbers, flags = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert list(zip(numbers.tolist(), flags.tolist(), strict=True)) == rows
    assert numbers.dtype == np.int64


@given(st.lists(st.tuples(INT64, INT64)))
def test_encoded_fixed_columns_are_decoded_to_themselves(rows):
    columns = [np.array([row[at] for row in rows], np.int64) for at in range(2)]
    parts: list[copy_format.Columns] = []

    feed(
        fixed_rows({"first": ">i8", "second": ">i8"}, parts.append),
        copy_format.encode_fixed(columns) + TRAILER,
    )

    assert [column.tolist() for column in parts[0]] == [column.tolist() for column in columns]


@pytest.mark.parametrize(
    "bad", [row(None, b"\1"), row(bigint(1), None), row(b"\0" * 4, b"\1"), row(bigint(1), b"\1", b"\1")]
)
@pytest.mark.parametrize("after", [b"", row(bigint(1), b"\1")])
def test_a_field_of_another_width_is_an_error(bad, after):
    with pytest.raises(UnusableView):
        feed(fixed_rows({"id": ">i8", "gone": "?"}), row(bigint(1), b"\1") + bad + after + TRAILER)


def first_null(rows, names):
    """The name of the first null field, None if there is none."""
    return next(
        (name for row in rows for name, field in zip(names, row, strict=False) if field is None), None
    )


def feed_with_nulls(decoder, rows, names, cuts):
    """Feeds rows whose first null is expected to be named in an error."""
    null = first_null(rows, names)
    data = b"".join(map(encode_row, rows)) + TRAILER
    if null is None:
        feed(decoder, data, cuts)
    else:
        with pytest.raises(UnusableView, match=rf"^animora\.posts holds a null in {null}, which that column"):
            feed(decoder, data, cuts)


@given(st.lists(st.tuples(st.none() | EIGHT, st.none() | EIGHT), max_size=5), CUTS)
def test_an_error_names_the_first_null_of_fixed_rows(rows, cuts):
    feed_with_nulls(fixed_rows({"user": ">i8", "time": ">f8"}), rows, ("user", "time"), cuts)


VECTOR = st.none() | st.lists(st.floats(width=32), min_size=1, max_size=3).map(lambda one: vector(*one))


@given(st.lists(st.tuples(st.none() | EIGHT, st.none() | st.just(b"\0"), VECTOR, VECTOR), max_size=5), CUTS)
def test_an_error_names_the_first_null_before_embeddings(rows, cuts):
    query = POSTS.select("id", "deleted_at", "image_embedding", "caption_embedding")
    decoder = EmbeddingRows(query, (DECODERS["vector"],) * 2, lambda *_: None)
    feed_with_nulls(decoder, rows, ("id", "deleted_at"), cuts)


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 5))))
def test_real_arrays_are_decoded_to_what_was_encoded(vectors):
    for field, encoded in zip(copy_format.encode_real_arrays(vectors), vectors, strict=True):
        decoded, usable = DECODERS["_float4"](np.frombuffer(field, np.uint8)[None, :])
        assert usable.tolist() == [len(encoded) > 0]
        np.testing.assert_array_equal(decoded[0], encoded)


@given(st.integers(-(10**14), 10**14))
def test_a_time_is_converted_to_unix_seconds_and_back_without_loss(microseconds):
    time = np.array([microseconds])
    assert copy_format.timestamps(copy_format.unix_seconds(time)).tolist() == [microseconds]


EMBEDDINGS = st.none() | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("type_name", "encoded"), [("_float4", real_array), ("_float8", double_array), ("vector", vector)]
)
@given(posts=st.lists(st.tuples(INT64, EMBEDDINGS, EMBEDDINGS)), cuts=CUTS)
def test_embeddings_do_not_depend_on_how_the_bytes_are_split(type_name, encoded, posts, cuts):
    found: list[object] = []
    data = b"".join(
        row(bigint(post_id), *(None if value is None else encoded(*value) for value in both))
        for post_id, *both in posts
    )

    feed(embedding_rows(type_name, type_name, found), data + TRAILER, cuts)

    assert found == posts


@given(st.lists(st.tuples(INT64, st.booleans(), EMBEDDINGS)), CUTS)
def test_fixed_columns_before_embeddings_do_not_depend_on_how_the_bytes_are_split(posts, cuts):
    found: list[object] = []

    def take(columns, images, captions):
        assert columns[0].dtype == np.int64
        found.extend(zip(*(column.tolist() for column in columns), values(images), strict=True))

    query = POSTS.select("id", "deleted_at", "image_embedding", "caption_embedding")
    data = b"".join(
        row(bigint(post_id), bytes([deleted]), None if image is None else vector(*image), None)
        for post_id, deleted, image in posts
    )
    feed(EmbeddingRows(query, (DECODERS["vector"],) * 2, take), data + TRAILER, cuts)

    assert found == posts


def test_float16_embeddings_stay_float16():
    batches = []
    rows = EmbeddingRows(
        EMBEDDINGS_OF_POSTS, (DECODERS["halfvec"], DECODERS["vector"]), lambda *batch: batches.append(batch)
    )

    feed(rows, row(bigint(1), struct.pack(">hh2e", 2, 0, 0.5, -2.0), vector(3)) + TRAILER)

    ((_, images, captions),) = batches
    assert (values(images), values(captions)) == ([[0.5, -2.0]], [[3.0]])
    assert images.blocks[2].dtype == ">f2"


@pytest.mark.parametrize(
    ("bad", "width"),
    [
        (struct.pack(">iiI", 0, 0, REAL), 0),
        (struct.pack(">iiIiiii", 2, 0, REAL, 1, 1, 1, 1) + struct.pack(">if", 4, 1.0), UNUSABLE),
        (struct.pack(">iiIii", 1, 1, REAL, 2, 1) + struct.pack(">ifi", 4, 1.0, -1), UNUSABLE),
    ],
    ids=["empty", "two dimensions", "a null inside"],
)
def test_an_unusable_array_does_not_affect_its_neighbours(bad, width):
    batches = []
    rows = EmbeddingRows(
        EMBEDDINGS_OF_POSTS, (DECODERS["_float4"],) * 2, lambda *batch: batches.append(batch)
    )
    fields = [real_array(1), bad, real_array(2), real_array(3, 4), bad, None]

    feed(rows, b"".join(row(bigint(1), field, None) for field in fields) + TRAILER)

    ((_, images, _),) = batches
    assert values(images) == [[1.0], [], [2.0], [3.0, 4.0], [], None]
    assert images.widths[[1, 4]].tolist() == [width, width]


FIELDS = {
    "_float4": real_array(1, 2),
    "_float8": double_array(1, 2),
    "vector": vector(1, 2),
    "halfvec": struct.pack(">hh2e", 2, 0, 1.0, 2.0),
}


@pytest.mark.parametrize("expected", FIELDS)
@pytest.mark.parametrize("sent", FIELDS)
def test_a_field_of_another_type_of_embeddings_is_an_error(expected, sent):
    rows = embedding_rows("vector", expected, [])
    data = row(bigint(1), None, FIELDS[sent]) + TRAILER
    if sent == expected:
        feed(rows, data)
    else:
        with pytest.raises(UnusableView, match=r"animora\.posts was changed while it was read"):
            feed(rows, data)


@pytest.mark.parametrize("bad", [row(bigint(1), vector(1)), row(b"\0" * 4, vector(1), vector(1))])
def test_a_row_of_other_columns_is_an_error(bad):
    with pytest.raises(UnusableView):
        embedding_rows("vector", "vector", []).feed(bad + TRAILER + bytes(20))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_database.embeddings import DECODERS
from animora_training.data import pgcopy

INT64 = st.integers(-(2**63), 2**63 - 1)
EIGHT = st.binary(min_size=8, max_size=8)
TAIL = st.none() | st.binary(max_size=30)
RAGGED = st.lists(st.tuples(INT64, st.booleans(), TAIL, TAIL))
HEAD = {"id": ">i8", "gone": "?"}


def chunks(stream, sizes):
    """The stream in pieces of the given sizes, and then its rest."""
    at = 0
    for size in sizes:
        yield stream[at : at + size]
        at += size
    yield stream[at:]


def decoded(decoder, stream, sizes):
    """All rows of a stream, as lists of their values."""
    rows: list[list[object]] = []
    for chunk in chunks(stream, sizes):
        columns, tails = decoder.feed(chunk)
        fields = [[None if field is None else bytes(field) for field in tail] for tail in tails]
        rows += map(list, zip(*(column.tolist() for column in columns), *fields, strict=True))
    decoder.finish()
    return rows


@given(RAGGED, st.lists(st.integers(0, 40)))
def test_ragged_rows_are_decoded_from_any_chunks(rows, sizes):
    encoded = [
        pgcopy.encode_row((an_id.to_bytes(8, "big", signed=True), bytes([gone]), *tail))
        for an_id, gone, *tail in rows
    ]
    stream = pgcopy.SIGNATURE + b"".join(encoded) + pgcopy.TRAILER
    assert decoded(pgcopy.RaggedRows(HEAD, 2), stream, sizes) == list(map(list, rows))


@given(st.lists(st.tuples(INT64, INT64)), st.lists(st.integers(0, 40)))
def test_fixed_rows_are_decoded_from_any_chunks(rows, sizes):
    columns = [np.array([row[column] for row in rows], np.int64) for column in range(2)]
    stream = pgcopy.SIGNATURE + pgcopy.encode_fixed(columns) + pgcopy.TRAILER
    decoder = pgcopy.FixedRows({"first": ">i8", "second": ">i8"})
    parts = [decoder.feed(chunk) for chunk in chunks(stream, sizes)]
    decoder.finish()
    for index, column in enumerate(columns):
        whole = np.concatenate([part[index] for part in parts])
        assert whole.tolist() == column.tolist()
        assert whole.dtype == np.int64


def first_null(rows, names):
    """The name of the first null field, None where there is none."""
    return next(
        (name for row in rows for name, field in zip(names, row, strict=False) if field is None), None
    )


@given(
    st.lists(st.lists(st.none() | EIGHT, min_size=2, max_size=2), max_size=5), st.lists(st.integers(0, 40))
)
def test_a_null_in_a_fixed_row_is_an_error_that_names_the_first(rows, sizes):
    decoder = pgcopy.FixedRows({"user": ">i8", "time": ">f8"})
    stream = pgcopy.SIGNATURE + b"".join(map(pgcopy.encode_row, rows)) + pgcopy.TRAILER

    def decode():
        for chunk in chunks(stream, sizes):
            decoder.feed(chunk)
        decoder.finish()

    null = first_null(rows, ("user", "time"))
    if null is None:
        decode()
    else:
        with pytest.raises(ValueError, match=f"holds a null in {null}"):
            decode()


HEADS = st.lists(st.tuples(st.none() | EIGHT, st.none() | st.just(b"\0"), TAIL, TAIL), max_size=5)


@given(HEADS, st.lists(st.integers(0, 40)))
def test_a_null_in_the_fixed_part_of_a_ragged_row_is_an_error_that_names_the_first(rows, sizes):
    stream = pgcopy.SIGNATURE + b"".join(map(pgcopy.encode_row, rows)) + pgcopy.TRAILER
    null = first_null(rows, HEAD)
    if null is None:
        assert len(decoded(pgcopy.RaggedRows(HEAD, 2), stream, sizes)) == len(rows)
    else:
        with pytest.raises(ValueError, match=f"holds a null in {null}"):
            decoded(pgcopy.RaggedRows(HEAD, 2), stream, sizes)


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 5))))
def test_arrays_of_real_are_decoded(vectors):
    for field, vector in zip(pgcopy.encode_real_arrays(vectors), vectors, strict=True):
        decoded_vectors, usable = DECODERS["_float4"](np.frombuffer(field, np.uint8)[None, :])
        assert usable.tolist() == [len(vector) > 0]
        np.testing.assert_array_equal(decoded_vectors[0], vector)

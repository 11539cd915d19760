import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_training.data import pgcopy

INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.lists(st.none() | st.binary(max_size=9), min_size=1, max_size=4))


def chunks(stream, sizes):
    """The stream in pieces of the given sizes, and then its rest."""
    at = 0
    for size in sizes:
        yield stream[at : at + size]
        at += size
    yield stream[at:]


@given(ROWS, st.lists(st.integers(0, 20)))
def test_rows_survive_any_division_into_chunks(rows, sizes):
    stream = pgcopy.SIGNATURE + b"".join(map(pgcopy.encode_row, rows)) + pgcopy.TRAILER
    decoder = pgcopy.RowDecoder()
    decoded = [
        [None if field is None else bytes(field) for field in row]
        for chunk in chunks(stream, sizes)
        for row in decoder.feed(chunk)
    ]
    assert decoded == rows


@given(st.lists(st.tuples(INT64, INT64)), st.lists(st.integers(0, 40)))
def test_fixed_rows_survive_any_division_into_chunks(rows, sizes):
    columns = [np.array([row[column] for row in rows], np.int64) for column in range(2)]
    stream = pgcopy.SIGNATURE + pgcopy.encode_fixed(columns) + pgcopy.TRAILER
    decoder = pgcopy.FixedRows([">i8", ">i8"])
    for chunk in chunks(stream, sizes):
        decoder.feed(chunk)
    assert len(decoder) == len(rows)
    for decoded, column in zip(decoder.columns(), columns, strict=True):
        assert decoded.tolist() == column.tolist()
        assert decoded.dtype == np.int64


@given(st.lists(st.lists(st.none() | st.just(b"12345678"), min_size=2, max_size=2), max_size=5))
def test_a_null_in_a_fixed_row_is_an_error(rows):
    decoder = pgcopy.FixedRows([">i8", ">f8"])

    def decode():
        decoder.feed(pgcopy.SIGNATURE + b"".join(map(pgcopy.encode_row, rows)) + pgcopy.TRAILER)
        return decoder.columns()

    if any(field is None for row in rows for field in row):
        with pytest.raises(ValueError, match="holds a null"):
            decode()
    else:
        assert len(decode()[0]) == len(rows)


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 5))))
def test_arrays_of_real_survive(vectors):
    for field, vector in zip(pgcopy.encode_real_arrays(vectors), vectors, strict=True):
        np.testing.assert_array_equal(pgcopy.decode_real_array(memoryview(field)), vector)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((1, 0, 701, 1, 1), "not an array of real"),
        ((1, 1, 700, 1, 1), "holds a null"),
        ((2, 0, 700, 1, 1), "more than one dimension"),
    ],
)
def test_an_array_of_another_kind_is_an_error(header, message):
    with pytest.raises(ValueError, match=message):
        pgcopy.decode_real_array(pgcopy.ARRAY_HEADER.pack(*header))

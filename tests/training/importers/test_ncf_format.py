import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_training.errors import InvalidInput
from animora_training.importers.ncf_format import find_files, read_embeddings, read_ratings, read_test_pairs
from tests.support.ncf_folders import write_folder

IDS = st.integers(-(2**63), 2**63 - 1)


def test_files_are_found_by_suffix(tmp_path):
    files = find_files(write_folder(tmp_path))
    assert files.train == tmp_path / "tiny.train.rating.gz"
    assert files.test == tmp_path / "tiny.test.rating"
    assert files.negatives == tmp_path / "tiny.test.negative"
    assert files.image == tmp_path / "tiny_image.f16.npy"
    assert files.caption == tmp_path / "tiny_caption.npy"


def test_only_the_training_file_is_needed(tmp_path):
    (tmp_path / "a.train.rating").touch()
    files = find_files(tmp_path)
    assert (files.test, files.negatives, files.image, files.caption) == (None, None, None, None)


def test_a_folder_without_a_training_file_or_with_two_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"is not a folder"):
        find_files(tmp_path / ("x" * 300))
    with pytest.raises(InvalidInput, match=r"is not a folder"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"holds no file \*\.train\.rating"):
        find_files(tmp_path)
    (tmp_path / "a.train.rating").touch()
    (tmp_path / "a.train.rating.gz").touch()
    with pytest.raises(
        InvalidInput, match=r"expected one file .* found a\.train\.rating, a\.train\.rating\.gz"
    ):
        find_files(tmp_path)


@given(rows=st.lists(st.tuples(IDS, IDS, st.integers(0, 5), st.integers(0, 2_000_000_000))))
def test_ratings_are_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("ratings") / "a.train.rating"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    ratings = read_ratings(path)
    read = zip(ratings.users.tolist(), ratings.items.tolist(), ratings.times.tolist(), strict=True)
    assert list(read) == [(user, item, time) for user, item, _, time in rows]


def test_compressed_ratings_empty_lines_and_fractions_are_read(tmp_path):
    path = tmp_path / "a.train.rating.gz"
    path.write_bytes(gzip.compress(b"1\t2\t4.5\t10.25\n\n3\t4\t1\t0"))
    ratings = read_ratings(path)
    assert ratings.users.tolist() == [1, 3]
    assert ratings.times.tolist() == [10.25, 0.0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1\t2\t3", "found 3 fields"),
        ("1 2 3 4", "found 1 fields"),
        ("1\tx\t3\t4", "invalid literal"),
        ("1.5\t2\t3\t4", "invalid literal"),
        ("9223372036854775808\t2\t3\t4", "does not fit into 64 bits"),
        ("1\t2\t3\t-1", "time -1 is not between"),
        ("1\t2\t3\tnan", "time nan is not between"),
        ("1\t2\t3\t1e15", "time 1e15 is not between"),
    ],
)
def test_a_bad_rating_is_named_by_file_and_line(tmp_path, line, reason):
    path = tmp_path / "a.train.rating"
    path.write_text(f"1\t2\t3\t4\n\n{line}\n5\t6\t7\t8\n")
    with pytest.raises(InvalidInput, match=rf"a\.train\.rating, line 3: expected user, item.*{reason}"):
        read_ratings(path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    for name, content in (
        ("a.rating.gz", b"not gzip"),
        ("b.rating.gz", gzip.compress(b"1\t2")[:-9]),
        ("c.rating", b"\xff\xfe"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput, match=f"{name}: cannot be read as text"):
            read_ratings(tmp_path / name)


def test_held_out_pairs_come_first_among_their_negatives(tmp_path):
    path = tmp_path / "a.test.negative"
    path.write_text("(7,3)\t0\t4\t5\n\n(-8,0)\t4\n")
    pairs = read_test_pairs(path)
    assert pairs.users.tolist() == [7, -8]
    assert pairs.candidates[pairs.present].tolist() == [3, 0, 4, 5, 0, 4]
    assert pairs.present.sum(axis=1).tolist() == [4, 2]


@pytest.mark.parametrize(
    "line",
    ["7,3\t1", "(7;3)\t1", "(7,3,4)\t1", "(7,x)\t1", "(7,3)\tx", "(7,3)\t1 2", "(7,3)\t99999999999999999999"],
)
def test_a_bad_held_out_pair_is_named_by_file_and_line(tmp_path, line):
    path = tmp_path / "a.test.negative"
    path.write_text(f"(1,2)\t3\n{line}\n")
    with pytest.raises(InvalidInput, match=r"a\.test\.negative, line 2: expected \(user,item\)"):
        read_test_pairs(path)


def test_embeddings_are_read_in_any_floating_precision(tmp_path):
    for kind in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "a.npy", np.ones((2, 3), kind))
        assert read_embeddings(tmp_path / "a.npy").dtype == np.float32


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.ones((2, 3), np.int64), "expected a floating matrix"),
        (np.ones(3), "expected a floating matrix"),
        (np.array([[1.0], [np.nan]]), "row 1 is not finite"),
        (np.array([["text"]], dtype=object), "is not a .npy file"),
    ],
)
def test_a_malformed_embedding_matrix_is_refused(tmp_path, content, reason):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(InvalidInput, match=reason):
        read_embeddings(tmp_path / "a.npy")


def test_ratings_without_times_are_read(tmp_path):
    path = tmp_path / "a.train.rating"
    path.write_text("1\t2\t3\n\n4\t5\t1.5\n")
    ratings = read_ratings(path)
    assert (ratings.users.tolist(), ratings.items.tolist()) == ([1, 4], [2, 5])
    assert ratings.times.tolist() == [0.0, 0.0]
    path.write_text("1\t2\t3\n4\t5\t1\t7\n")
    with pytest.raises(InvalidInput, match=r"line 2: .*found 4 fields, and 3 in the first line"):
        read_ratings(path)

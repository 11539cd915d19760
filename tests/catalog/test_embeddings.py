import numpy as np
import pytest

from animora_server.catalog import EmbeddingFile
from animora_server.catalog.embeddings import fingerprints


def half(*rows):
    return np.array(rows, np.float16)


@pytest.fixture
def file(tmp_path):
    return EmbeddingFile(tmp_path, image_width=2, caption_width=1)


def test_written_rows_can_be_read(file):
    file.write(0, half([1, 2], [3, 4]), half([5], [6]))

    image, caption = file.read(1, 2)

    assert image.tolist() == [[3, 4]]
    assert caption.tolist() == [[6]]


def test_a_file_can_grow_after_a_read(file):
    file.write(0, half([1, 2]), half([3]))
    before, _ = file.read(0, 1)
    file.write(1, half([4, 5]), half([6]))

    assert file.read(0, 2)[0].tolist() == [[1, 2], [4, 5]]
    assert before.tolist() == [[1, 2]]


def test_rows_past_a_snapshot_may_be_written_again(file):
    file.write(0, half([1, 2], [3, 4]), half([5], [6]))
    file.write(1, half([7, 8]), half([9]))

    assert file.read(0, 2)[0].tolist() == [[1, 2], [7, 8]]


def test_rows_are_taken_in_any_order(file):
    file.write(0, half([1, 1], [2, 2], [3, 3]), half([1], [2], [3]))

    assert file.take(np.array([2, 0]))[1].tolist() == [[3], [1]]


def test_a_row_that_was_never_written_is_an_error(file):
    file.write(0, half([1, 2]), half([3]))

    with pytest.raises(IndexError):
        file.read(0, 2)


def test_without_widths_rows_are_empty():
    image, caption = EmbeddingFile(None, 0, 0).read(3, 5)

    assert image.shape == caption.shape == (2, 0)


def test_a_resized_column_is_zero_in_existing_rows(tmp_path):
    narrow = EmbeddingFile(tmp_path, image_width=0, caption_width=1)
    narrow.write(0, np.empty((2, 0), np.float16), half([1], [2]))

    image, caption = narrow.resized(image_width=3, caption_width=1, rows=2).read(0, 2)

    assert image.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert caption.tolist() == [[1], [2]]


def test_the_file_is_unlinked(file, tmp_path):
    file.write(0, half([1, 2]), half([3]))

    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_an_oserror(tmp_path):
    file = EmbeddingFile(tmp_path / "missing", image_width=2, caption_width=1)

    with pytest.raises(OSError, match="missing"):
        file.write(0, half([1, 2]), half([3]))


def test_equal_rows_have_equal_fingerprints_and_zeros_have_none():
    digests = fingerprints(half([1, 2], [1, 2], [1, 3], [0, 0]), half([3], [3], [3], [0]))

    assert digests[0] == digests[1]
    assert digests[3] == 0
    assert len(set(digests.tolist())) == 3


def test_a_fingerprint_distinguishes_image_from_caption():
    assert fingerprints(half([1]), half([0])) != fingerprints(half([0]), half([1]))


def test_a_fingerprint_does_not_depend_on_the_width_of_an_absent_embedding():
    assert fingerprints(half([1]), half([0, 0])) == fingerprints(half([1]), np.empty((1, 0), np.float16))


def test_a_fingerprint_is_the_same_in_every_process():
    assert fingerprints(half([1, -2]), half([0.5])).tolist() == [2675424000431658173]

import pytest

from animora_training.data.dataset import ABSENT
from animora_training.errors import InvalidInput
from animora_training.importers.ncf_evaluation import read_held_out
from tests.support.datasets import dataset


def write(folder, negatives, test=None):
    (folder / "a.train.rating").touch()
    (folder / "a.test.negative").write_text(negatives)
    if test is not None:
        (folder / "a.test.rating").write_text(test)
    return folder


def test_duplicate_unknown_deleted_and_blocked_posts_are_not_candidates(tmp_path):
    data = dataset([], posts=6, users=4, deleted=(500,), blocks=((10, 20),))
    folder = write(tmp_path, "(10,100)\t300\t100\t300\t777\t500\t200\t600\n")
    read = read_held_out(folder, data)
    assert read.skipped == 0
    assert read.held_out.candidates.tolist() == [[0, 2, *[ABSENT] * 5, 5]]


def test_pairs_that_the_server_could_not_rank_are_left_out_and_counted(tmp_path):
    data = dataset([], posts=6, users=4, deleted=(500,), blocks=((10, 20),))
    lines = ("(10,300)\t100", "(77,300)\t100", "(10,777)\t100", "(10,500)\t100", "(10,200)\t100")
    read = read_held_out(write(tmp_path, "\n".join(lines)), data)
    assert read.held_out.users.tolist() == [0]
    assert read.skipped == 4


def test_files_that_name_different_pairs_are_refused(tmp_path):
    data = dataset([])
    read_held_out(write(tmp_path, "(10,300)\t100\n", "10\t300\t5\t0\n"), data)
    with pytest.raises(InvalidInput, match=r"only one of them has \(10,200\)"):
        read_held_out(write(tmp_path, "(10,300)\t100\n", "10\t200\t5\t0\n"), data)


def test_test_pairs_without_negatives_are_refused(tmp_path):
    (tmp_path / "a.train.rating").touch()
    with pytest.raises(InvalidInput, match=r"holds no file \*\.test\.negative"):
        read_held_out(tmp_path, dataset([]))

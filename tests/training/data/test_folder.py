import json

import numpy as np
import pytest

from animora_training.data.arrays import ArrayFile, map_array
from animora_training.data.database import Database, connect
from animora_training.data.folder import describe, open_dataset
from animora_training.data.reading import read_dataset
from animora_training.errors import InvalidInput
from animora_training.importers.importing import import_feed
from tests.support.datasets import tiny_feed, triples


def ignore(*progress):
    pass


@pytest.fixture
async def read(postgres_url, tmp_path):
    """A data set in memory."""
    async with connect(Database(postgres_url)) as connection:
        await import_feed(connection, tiny_feed(), ignore)
        return await read_dataset(connection, tmp_path, ignore)


async def test_an_opened_data_set_equals_the_one_read_and_is_read_only(read, tmp_path):
    opened = open_dataset(tmp_path)
    np.testing.assert_array_equal(opened.user_ids, read.user_ids)
    np.testing.assert_array_equal(opened.posts.image, read.posts.image)
    np.testing.assert_array_equal(opened.blocks, read.blocks)
    assert triples(opened.pairs) == triples(read.pairs)
    assert triples(opened.events) == triples(read.events)
    with pytest.raises(ValueError, match="read-only"):
        opened.pairs.posts[0] = 1


async def test_the_digest_differs_for_other_data(read, postgres_url, tmp_path):
    first = describe(tmp_path)
    async with connect(Database(postgres_url)) as connection:
        await read_dataset(connection, tmp_path / "again", ignore)
        await connection.execute(
            "delete from animora_app.likes where user_id = (select min(user_id) from animora_app.likes)"
        )
        await read_dataset(connection, tmp_path / "changed", ignore)
    assert describe(tmp_path / "again").digest == first.digest
    assert describe(tmp_path / "changed").digest != first.digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "holds no data set, or an incomplete one"),
        (lambda folder: (folder / "dataset.json").write_text("{}"), "does not describe a data set"),
        (lambda folder: (folder / "blocks.npy").unlink(), "blocks.npy: cannot be read"),
        (lambda folder: (folder / "blocks.npy").write_text("no array"), "blocks.npy: cannot be read"),
        (
            lambda folder: np.save(folder / "pair_posts.npy", np.zeros(3, np.int32)),
            r"holds int32 \(3,\), but",
        ),
        (
            lambda folder: (folder / "post_image.npy").write_bytes(
                (folder / "post_image.npy").read_bytes()[:-9]
            ),
            "post_image.npy: cannot be read",
        ),
    ],
)
async def test_a_damaged_folder_is_refused_with_what_is_wrong(read, tmp_path, damage, message):
    damage(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        open_dataset(tmp_path)


async def test_a_folder_of_another_format_is_refused(read, tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "animora-dataset-9"}))
    with pytest.raises(InvalidInput, match="has the format 'animora-dataset-9', not 'animora-dataset-1'"):
        open_dataset(tmp_path)


def test_an_array_file_equals_what_numpy_writes(tmp_path):
    path = tmp_path / "array.npy"
    with ArrayFile(path, np.float16, (0,)) as file:
        file.append(np.empty((3000, 0)))
        file.widen(2)
        file.append(np.array([[1.5, 2.0], [3.0, 4.0]]))
    expected = np.zeros((3002, 2), np.float16)
    expected[3000:] = [[1.5, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(np.load(path), expected)
    np.testing.assert_array_equal(map_array(path), expected)

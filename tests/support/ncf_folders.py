"""A data set in the NCF text format, small enough to read."""

import gzip
from pathlib import Path

import numpy as np

TRAIN = "7\t1\t5\t100\n7\t2\t3\t200\n8\t1\t4\t150\n8\t3\t4\t160\n9\t2\t1\t170\n9\t4\t2\t180\n"
TEST = "7\t3\t5\t300\n8\t0\t5\t301\n"
NEGATIVES = "(7,3)\t0\t4\t5\n(8,0)\t4\t0\t4\n"
ITEMS = 6


def write_folder(folder: Path) -> Path:
    """Training ratings compressed, the others not; embeddings in both precisions, item 5 without an image."""
    with gzip.open(folder / "tiny.train.rating.gz", "wt") as file:
        file.write(TRAIN)
    (folder / "tiny.test.rating").write_text(TEST)
    (folder / "tiny.test.negative").write_text(NEGATIVES)
    image = np.arange(ITEMS * 3, dtype=np.float16).reshape(ITEMS, 3) + 1
    image[5] = 0
    np.save(folder / "tiny_image.f16.npy", image)
    np.save(folder / "tiny_caption.npy", np.ones((ITEMS, 2), np.float32))
    return folder

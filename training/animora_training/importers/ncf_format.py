"""Reads the NCF paper's text format: ratings, test pairs with negatives, `.npy` embeddings."""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from animora_training.data.dataset import ABSENT, BoolArray, DoubleArray, FloatArray, IntArray
from animora_training.errors import InvalidInput

RATING_FIELDS, WITHOUT_TIME = 4, 3
RATING_FORMAT = "user, item, rating and time, separated by tabs; whole numbers but for rating and time"
NEGATIVE_FORMAT = "(user,item), then items, separated by tabs, all whole numbers"
MAX_TIME = 253_402_300_799.0  # the last second of the year 9999
INT64 = range(-(2**63), 2**63)

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Ratings:
    """Pairs of users and items: users and items int64 (n), times float64 (n) in seconds since the epoch."""

    users: IntArray
    items: IntArray
    times: DoubleArray


@dataclass(frozen=True, slots=True)
class TestPairs:
    """Held-out pairs: users int64 (m), candidates int64 (m, 1 + k) with the held-out item in column 0.

    `present` is bool (m, 1 + k), False for padding of lines with fewer negatives.
    """

    users: IntArray
    candidates: IntArray
    present: BoolArray


@dataclass(frozen=True, slots=True)
class NcfFolder:
    """The files of a data set; all but the training ratings may be missing."""

    train: Path
    test: Path | None
    negatives: Path | None
    image: Path | None
    caption: Path | None


def find_files(folder: Path) -> NcfFolder:
    """Finds a data set's files by the suffixes of their names.

    Raises:
        InvalidInput: There is no training file, or several of a kind.
    """
    if not os.path.isdir(folder):  # Path's own raises where a folder may not be entered
        raise InvalidInput(f"{folder}: is not a folder")
    train = _find(folder, "*.train.rating", "*.train.rating.gz")
    if train is None:
        raise InvalidInput(f"{folder}: holds no file *.train.rating or *.train.rating.gz")
    return NcfFolder(
        train=train,
        test=_find(folder, "*.test.rating", "*.test.rating.gz"),
        negatives=_find(folder, "*.test.negative", "*.test.negative.gz"),
        image=_find(folder, "*image*.npy"),
        caption=_find(folder, "*caption*.npy"),
    )


def read_ratings(path: Path) -> Ratings:
    """Reads `*.train.rating` or `*.test.rating`; skips empty lines.

    A file may have no times, that is three fields in each line; then all times are 0.

    Raises:
        InvalidInput: A line is not in the format; names the file and the line.
    """
    kinds = np.dtype([("user", np.int64), ("item", np.int64), ("rating", np.float64), ("time", np.float64)])
    text = _read_text(path)
    if not text.strip():
        return Ratings(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    if len(text.lstrip().partition("\n")[0].split("\t")) == WITHOUT_TIME:
        lines = list(_parse_lines(path, text, _rating_without_time, RATING_FORMAT))
        users, items = np.array(lines, np.int64).T
        return Ratings(users.copy(), items.copy(), np.zeros(len(lines)))
    try:
        rows = np.loadtxt(io.StringIO(text), kinds, delimiter="\t", comments=None, ndmin=1)
    except ValueError:
        rows = None
    # NumPy does not name the line of an error, so an invalid file is parsed again line by line.
    if rows is None or not ((rows["time"] >= 0) & (rows["time"] <= MAX_TIME)).all():
        rows = np.array(list(_parse_lines(path, text, _rating, RATING_FORMAT)), kinds)
    return Ratings(users=rows["user"].copy(), items=rows["item"].copy(), times=rows["time"].copy())


def read_test_pairs(path: Path) -> TestPairs:
    """Reads `*.test.negative`; skips empty lines.

    Raises:
        InvalidInput: A line is not in the format; names the file and the line.
    """
    lines = list(_parse_lines(path, _read_text(path), _negatives, NEGATIVE_FORMAT))
    width = max((len(items) for _, items in lines), default=1)
    candidates = np.full((len(lines), width), ABSENT, np.int64)
    present = np.zeros(candidates.shape, np.bool_)
    for row, (_, items) in enumerate(lines):
        candidates[row, : len(items)] = items
        present[row, : len(items)] = True
    return TestPairs(np.array([user for user, _ in lines], np.int64), candidates, present)


def read_embeddings(path: Path) -> FloatArray:
    """Reads a matrix float32 (items, width) with a row for each item id; it may be stored as float16.

    Raises:
        InvalidInput: The file is not a `.npy` file of a finite floating matrix.
    """
    try:
        matrix = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInput(f"{path}: is not a .npy file: {error}") from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
        raise InvalidInput(f"{path}: expected a floating matrix with a row an item")
    if not np.isfinite(matrix).all():
        raise InvalidInput(f"{path}: row {np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0]} is not finite")
    return matrix.astype(np.float32)


def _find(folder: Path, *patterns: str) -> Path | None:
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InvalidInput(f"{folder}: expected one file {' or '.join(patterns)}, found {names}")
    return found[0] if found else None


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as text: {error}") from error


def _parse_lines(path: Path, text: str, parse: Callable[[str], Parsed], expected: str) -> Iterator[Parsed]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield parse(line)
        except ValueError as error:
            raise InvalidInput(f"{path}, line {number}: expected {expected} ({error})") from error


def _rating(line: str) -> tuple[int, int, float, float]:
    fields = line.split("\t")
    if len(fields) != RATING_FIELDS:
        raise ValueError(f"found {len(fields)} fields")
    time = float(fields[3])
    if not 0 <= time <= MAX_TIME:
        raise ValueError(f"time {fields[3]} is not between 0 and {MAX_TIME:.0f}")
    return _id(fields[0]), _id(fields[1]), float(fields[2]), time


def _rating_without_time(line: str) -> tuple[int, int]:
    fields = line.split("\t")
    if len(fields) != WITHOUT_TIME:
        raise ValueError(f"found {len(fields)} fields, and {WITHOUT_TIME} in the first line")
    float(fields[2])
    return _id(fields[0]), _id(fields[1])


def _negatives(line: str) -> tuple[int, list[int]]:
    pair, *items = line.split("\t")
    if not (pair.startswith("(") and pair.endswith(")") and pair.count(",") == 1):
        raise ValueError(f"found {pair[:40]!r} in place of (user,item)")
    user, item = pair[1:-1].split(",")
    return _id(user), [_id(item), *(_id(negative) for negative in items)]


def _id(text: str) -> int:
    number = int(text)
    if number not in INT64:
        raise ValueError(f"{number} does not fit into 64 bits")
    return number

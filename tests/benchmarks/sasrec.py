"""`make bench-sasrec DATA=DIR`: RecBole's SASRec, trained beforehand for `make bench-accuracy-ordered`.

Training takes hours on two cores, prints a line an epoch, and resumes where it was stopped. At the end the
held-out items are ranked as the benchmark ranks them, and the metrics go to docs/benchmarks/sasrec.json, with
the settings and a digest of the data. Each user's last training item is held out for early stopping and not
trained on; NeuCF is refitted on all of them.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from animora_training.data.dataset import IntArray
from animora_training.errors import TrainingError
from animora_training.evaluation.evaluation_result import evaluate
from animora_training.evaluation.evaluation_split import ncf_split
from tests.benchmarks.ncf_negatives import with_negatives
from tests.benchmarks.ncf_task import NcfTask
from tests.benchmarks.ordered_report import OrderedQuality, OrderedRows
from tests.benchmarks.served_catalog import ScoreTable
from tests.benchmarks.trainers import RECBOLE

NAME = "SASRec (RecBole)"
SCRIPT = Path("tests/benchmarks/recbole/sasrec.py")
RESULT = Path("docs/benchmarks/sasrec.json")
THREADS = 2
TIES_SEED = 0


def ordered_pairs(task: NcfTask) -> tuple[IntArray, IntArray]:
    """Ids int64 (n) of users and items of the training pairs: by user, then by time, ties at random."""
    dataset = task.dataset
    pairs = dataset.pairs
    rng = np.random.default_rng(TIES_SEED)
    order = np.lexsort((rng.random(len(pairs)), pairs.times, pairs.users))
    return dataset.user_ids[pairs.users[order]], dataset.posts.ids[pairs.posts[order]]


def digest(task: NcfTask) -> str:
    """Digest of the ordered training pairs and of the held-out pairs with their negatives."""
    held_out = task.held_out
    items = np.where(held_out.present, task.dataset.posts.ids[held_out.candidates], -1)
    found = hashlib.sha256()
    for array in (*ordered_pairs(task), task.dataset.user_ids[held_out.users], items):
        found.update(np.ascontiguousarray(array, np.int64).tobytes())
    return found.hexdigest()


def train(task: NcfTask, folder: Path, seed: int, epochs: int) -> tuple[OrderedRows, dict[str, Any]]:
    """Trains, or resumes, in RecBole's environment; returns the metrics and the settings.

    Args:
        task: The data set.
        folder: Keeps the states of trainings, each in a folder named by the data and the seed.
        seed: Seed of the training.
        epochs: Most epochs.

    Raises:
        RuntimeError: The training failed, or its environment does not exist.
    """
    if not RECBOLE.exists():
        raise RuntimeError(f"{RECBOLE} is not there: `make bench-sasrec` makes RecBole's environment")
    folder = folder / f"{digest(task)[:16]}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    users, items = ordered_pairs(task)
    wanted = np.unique(task.held_out.users)
    np.savez(
        folder / "pairs.npz",
        users=users,
        items=items,
        scored_users=task.dataset.user_ids[wanted],
        scored_items=task.dataset.posts.ids,
    )
    command = [str(word) for word in (RECBOLE.absolute(), "-W", "ignore", SCRIPT, folder)]
    command += ["--threads", str(THREADS), "--seed", str(seed), "--epochs", str(epochs)]
    # A thread that waits sleeps, so that a busy machine's other processes get its core.
    threads = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, check=False, env={**os.environ, **threads})
    if done.returncode:
        raise RuntimeError("RecBole has failed; its output above says why")
    split = ncf_split(NAME, task.dataset, task.held_out)
    table = ScoreTable(wanted, np.load(folder / "scores.npy"))
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
    return OrderedRows.of(evaluate(NAME, table, split, task.dataset)), settings


def recorded(task: NcfTask, result: Path = RESULT) -> tuple[OrderedQuality | None, str]:
    """The metrics of an earlier training on these data, if there are any, and a remark about them."""
    if not result.exists():
        return None, f"{NAME} is left out: `make bench-sasrec` has not written {result}"
    content = json.loads(result.read_text())
    if content["data"] != digest(task):
        return None, f"{NAME} is left out: {result} is of other data, or of times that were not shuffled"
    settings = content["settings"]
    trained = f"seed {settings['seed']}, best of {settings['epochs']} epochs"
    return OrderedQuality(**content["quality"]), f"{NAME} was trained beforehand: {trained} ({result})"


def main(options: argparse.Namespace, out: Console) -> None:
    """Trains and writes the result.

    Raises:
        InvalidInput: The folder cannot be read.
        NothingToLearn: No test pair can be ranked.
        RuntimeError: The training failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = NcfTask.of(with_negatives(options.data, Path(folder), out))
        rows, settings = train(task, options.folder.resolve(), options.seed, options.epochs)
    content = {
        "data": digest(task),
        "users": len(rows.ndcg),
        "quality": {name: round(value, 4) for name, value in asdict(rows.quality()).items()},
        "standard_errors": {name: round(value, 4) for name, value in asdict(rows.standard_errors()).items()},
        "settings": settings,
    }
    options.result.write_text(json.dumps(content, indent=1) + "\n")
    out.print(f"{NAME}: {rows.quality().line()}; written to {options.result}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder in the NCF format")
    parser.add_argument("--folder", type=Path, required=True, help="keeps the state of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=300, help="most epochs")
    parser.add_argument("--result", type=Path, default=RESULT, help="where to write the JSON")
    try:
        main(parser.parse_args(), Console(highlight=False, soft_wrap=True))
    except (RuntimeError, TrainingError) as error:
        sys.exit(f"error: {error}")

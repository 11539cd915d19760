"""The two sides of `make bench-train`: our trainer, and RecBole's NeuMF in a process of its own."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from animora_training.data.dataset import Dataset
from animora_training.data.split import Split, leave_one_out
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.network_ranking import PostScorer, Quality, rank_held_out
from animora_training.importers.feed import ImportFeed
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import factorize
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.trainer import Trainer
from animora_training.modeling.training_set import TrainingSet, training_set
from animora_training.pipeline.als_tuning import default_als
from animora_training.pipeline.export import FoldedNeuCF
from tests.support.datasets import as_dataset

HOLDOUT_NEGATIVES = 99
RECBOLE = Path(".venv-recbole/bin/python")
SCRIPT = Path("tests/benchmarks/recbole/neumf.py")


@dataclass(frozen=True, slots=True)
class Task:
    """Training pairs and held-out pairs of both sides."""

    dataset: Dataset
    split: Split

    @classmethod
    def of(cls, feed: ImportFeed, seed: int) -> "Task":
        """Ids only; one pair of each user with two or more is held out, with sampled negatives."""
        dataset = as_dataset(feed).without_embeddings()
        return cls(dataset, leave_one_out(dataset, HOLDOUT_NEGATIVES, np.random.default_rng(seed)))

    def ndcg(self, scores: Scores) -> float:
        """NDCG@10 of scores (m, 1 + k) of the held-out pairs' candidates."""
        return Quality.of(rank_held_out(self.dataset.posts, scores, self.split.held_out)).ndcg


@dataclass(frozen=True, slots=True)
class Turn:
    """An epoch.

    Attributes:
        seconds: Wall time of training.
        cpu_seconds: CPU time of training, all threads.
        samples: Number of positive and negative pairs that were trained on.
        ndcg: NDCG@10 on the held-out pairs after it.
    """

    seconds: float
    cpu_seconds: float
    samples: int
    ndcg: float


class Side(Protocol):
    """A trainer that takes turns of one epoch."""

    def turn(self) -> Turn:
        """Trains an epoch and evaluates; the first turn includes the time of preparation."""
        ...


class Animora:
    """Our trainer, in this process, on the CPU."""

    def __init__(self, task: Task, config: FitConfig) -> None:
        self._task = task
        self._config = config
        self._data = training_set(task.dataset, task.split.training)
        self._trainer: Trainer | None = None

    def turn(self) -> Turn:
        """See Side."""
        wall, cpu = time.perf_counter(), time.process_time()
        if self._trainer is None:
            self._trainer = new_trainer(self._data, self._config)
        epoch = next(self._trainer.epochs())
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        scorer = PostScorer(
            FoldedNeuCF(self._trainer.network()).eval(), self._data.vocabulary, self._task.dataset
        )
        ndcg = self._task.ndcg(scorer.candidates(self._task.split.held_out))
        return Turn(seconds, cpu_seconds, epoch.pairs, ndcg)


def new_trainer(data: TrainingSet, config: FitConfig) -> Trainer:
    """A trainer before its first step, with the ALS settings that a fit's tuning starts from."""
    factorisation = None
    if config.factorisation == "als":
        factorisation = factorize(data, config, default_als(data, config))
    return Trainer(data, config, new_initialization(data, config, factorisation), ProcessGroup())


class RecBole:
    """RecBole's NeuMF in a process of its own, which waits between its turns."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, task: Task) -> None:
        self._process = process
        self._folder = folder
        self._task = task
        self._preparation: float = self._answer()["seconds"]

    def turn(self) -> Turn:
        """See Side.

        Raises:
            RuntimeError: The process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("epoch\n")
        self._process.stdin.flush()
        figures = self._answer()
        ndcg = self._task.ndcg(np.load(self._folder / "logits.npy"))
        seconds = figures["seconds"] + self._preparation
        self._preparation = 0.0
        return Turn(seconds, figures["cpu_seconds"], figures["samples"], ndcg)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("RecBole has ended; its output above says why")
        figures: dict[str, Any] = json.loads(line)
        return figures


@contextmanager
def recbole(task: Task, options: dict[str, Sequence[float]], threads: int) -> Iterator[RecBole]:
    """Starts RecBole on the training pairs.

    Args:
        task: Training pairs.
        options: Options of `neumf.py` by name.
        threads: Number of threads.

    Raises:
        RuntimeError: The process ended, or its environment does not exist.
    """
    if not RECBOLE.exists():
        raise RuntimeError(f"{RECBOLE} is not there: `make bench-train` makes RecBole's environment")
    training, held_out = task.split.training, task.split.held_out
    words = [word for name, values in options.items() for word in (f"--{name}", *map(str, values))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(
            folder / "pairs.npz",
            users=training.users,
            items=training.posts,
            scored_users=held_out.users,
            scored_items=held_out.candidates,
        )
        process = subprocess.Popen(
            # RecBole warns about its own use of pandas and PyTorch.
            [RECBOLE.absolute(), "-W", "ignore", SCRIPT, folder, "--threads", str(threads), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        with process:  # the end of its input ends the process
            yield RecBole(process, folder, task)

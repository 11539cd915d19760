"""RecBole's NeuMF, trained an epoch whenever a line comes in; runs in the environment of requirements.txt.

`neumf.py FOLDER` reads FOLDER/pairs.npz: the training pairs as users and items int64 (n), and whom to
score what for as scored_users int64 (m) and scored_items int64 (m, k). When it is ready, and after each
epoch, it prints a line of JSON; after each epoch FOLDER/logits.npy holds float32 (m, k).
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.data.utils import create_dataset, create_samplers, get_dataloader
from recbole.model.general_recommender.neumf import NeuMF
from recbole.trainer.trainer import Trainer
from recbole.utils import init_seed

NAME = "pairs"
USERS_AT_ONCE = 256


def write_atomic_file(folder: Path, users: np.ndarray, items: np.ndarray) -> None:
    """The pairs of users and items int64 (n) in RecBole's own format."""
    (folder / NAME).mkdir()
    with (folder / NAME / f"{NAME}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\n")
        np.savetxt(file, np.stack((users, items), axis=1), "%d", delimiter="\t")


def configure(folder: Path, options: argparse.Namespace) -> Config:
    """RecBole's configuration; what is not named here is as RecBole has it."""
    return Config(
        model="NeuMF",
        dataset=NAME,
        config_dict={
            "data_path": str(folder),
            "use_gpu": False,
            "seed": options.seed,
            "load_col": {"inter": ["user_id", "item_id"]},
            # All pairs are for training: the held-out pairs were removed before.
            "eval_args": {"split": {"RS": [1, 0, 0]}, "group_by": None, "order": "RO", "mode": "full"},
            "train_neg_sample_args": {
                "distribution": "uniform",
                "sample_num": options.negatives,
                "alpha": 1.0,
                "dynamic": False,
                "candidate_num": 0,
            },
            "train_batch_size": options.batch,
            "learning_rate": options.learning_rate,
            "mf_embedding_size": options.factors,
            "mlp_embedding_size": options.mlp_embedding,
            "mlp_hidden_size": options.hidden,
            "dropout_prob": 0.0,
        },
    )


def rows(dataset: Dataset, field: str, ids: np.ndarray) -> np.ndarray:
    """RecBole's numbers int64 of ids; 0, its padding, for those that do not occur in training."""
    numbers = dataset.field2token_id[field]
    known, inverse = np.unique(ids, return_inverse=True)
    return np.array([numbers.get(str(one), 0) for one in known.tolist()], np.int64)[inverse].reshape(
        ids.shape
    )


@torch.inference_mode()
def logits(model: NeuMF, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Logits float32 (m, k) of user rows (m) and item rows (m, k); -inf for items that it does not know."""
    model.eval()
    scores = [np.empty((0, items.shape[1]), np.float32)]
    for start in range(0, len(users), USERS_AT_ONCE):
        some = torch.from_numpy(items[start : start + USERS_AT_ONCE])
        of_users = torch.from_numpy(users[start : start + USERS_AT_ONCE]).repeat_interleave(items.shape[1])
        scores.append(model.forward(of_users, some.reshape(-1)).view(some.shape).numpy())
    return np.where(items > 0, np.concatenate(scores), -np.inf).astype(np.float32)


def answer(**figures: Any) -> None:
    """Says that a step is done."""
    print(json.dumps(figures), flush=True)  # noqa: T201 - the other end of a pipe


def main(folder: Path, options: argparse.Namespace) -> None:
    """Prepares, then trains an epoch for every line of standard input."""
    os.chdir(folder)  # RecBole writes logs where it runs
    torch.set_num_threads(options.threads)
    given = np.load("pairs.npz")
    write_atomic_file(folder, given["users"], given["items"])
    config = configure(folder, options)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    scored = rows(dataset, "user_id", given["scored_users"]), rows(dataset, "item_id", given["scored_items"])
    built = dataset.build()
    # What both sides need before the first step, as ours does: the sets to sample from, and the network.
    began = time.perf_counter()
    sampler, _, _ = create_samplers(config, dataset, built)
    batches = get_dataloader(config, "train")(config, built[0], sampler, shuffle=True)
    model = NeuMF(config, built[0])
    trainer = Trainer(config, model)
    answer(seconds=time.perf_counter() - began, parameters=sum(one.numel() for one in model.parameters()))
    for number, _ in enumerate(sys.stdin):
        wall, cpu = time.perf_counter(), time.process_time()
        # What Trainer.fit calls, and times, for an epoch: batches, negatives, loss, gradients, Adam's step.
        loss = trainer._train_epoch(batches, number)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        np.save("logits.npy", logits(model, *scored))
        samples = len(built[0]) * batches.times
        answer(seconds=seconds, cpu_seconds=cpu_seconds, samples=samples, loss=loss / len(batches))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--factors", type=int, default=8)
    parser.add_argument("--mlp-embedding", type=int, default=8)
    parser.add_argument("--hidden", type=int, nargs="+", default=[32, 16, 8])
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8192, help="pairs of a step, negatives included")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    # RecBole reads the command line, too: it must find nothing there.
    options = parser.parse_args()
    sys.argv[1:] = []
    main(options.folder.resolve(), options)

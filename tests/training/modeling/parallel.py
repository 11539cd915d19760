"""A program for tests that trains in the processes of torchrun."""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from threading import Event

import torch
import torch.distributed as dist

from animora_training.errors import NothingToLearn
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, factorize
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.process_group import ProcessGroup, process_group
from animora_training.modeling.sequence_model import SequenceConfig, new_sequence_model
from animora_training.modeling.sequence_trainer import SequenceTrainer
from animora_training.modeling.trainer import Trainer
from animora_training.modeling.training_set import times_of, training_set
from tests.support.datasets import as_dataset, many_users, tiny_feed
from tests.support.memory import allow

EPOCHS = 2
SMALL = FitConfig(
    factors=4,
    mlp_embedding=6,
    hidden=(8,),
    users_per_step=16,
    posts_per_step=1000,
    max_epochs=10,
    learning_rate=0.03,
    user_learning_rate=5.0,
    warmup_epochs=1.0,
    l2=0.3,
    history_drop=0.4,
)
CONFIGS = {
    "sampled": replace(SMALL, hidden=(8, 4), posts_per_step=40, dropout=0.2),
    "whole": replace(SMALL, users_per_step=7, loss="softmax", learning_rate=0.003),
    "bpr": replace(SMALL, loss="bpr", embeddings=False, learning_rate=0.003),
}
# Without dropout, which each process draws for itself.
SEQUENCES = SequenceConfig(
    length=5, taste=6, windows_per_step=8, negatives=50, dropout=0.0, learning_rate=0.01
)
# A user table that is much larger than everything else.
USERS, POSTS = 100_000, 100
LARGE = FitConfig(factors=8, mlp_embedding=120, hidden=(4,), feature_width=1, users_per_step=512)
LARGE_TABLE = 4 * (USERS + 1) * (8 + 1 + 120)


def train(name: str, group: ProcessGroup, folder: Path) -> None:
    """Trains on a tiny feed; stores the network, the losses and the number of user rows."""
    config, tiny = CONFIGS[name], as_dataset(tiny_feed())
    data = training_set(tiny if config.embeddings else tiny.without_embeddings(), tiny.pairs)
    start = new_initialization(data, config, factorize(data, config, AlsSettings(10.0, 5.0)), group)
    trainer = Trainer(data, config, start, group)
    epochs = list(islice(trainer.epochs(), EPOCHS))
    network = trainer.network()
    kept = {
        "losses": torch.tensor([epoch.loss for epoch in epochs]),
        "pairs": [epoch.pairs for epoch in epochs],
        "rows": len(trainer.state()["users"]["table"]),
        "network": network.state_dict(),
    }
    torch.save(kept, folder / f"{name}-{group.rank}-of-{group.world_size}")


def train_sequences(group: ProcessGroup, folder: Path) -> None:
    """Trains a sequence model on a tiny feed; stores the losses and the model."""
    tiny = as_dataset(tiny_feed())
    data = training_set(tiny, tiny.pairs)
    model = new_sequence_model(new_initialization(data, SMALL).network.shape, SEQUENCES)
    trainer = SequenceTrainer(data, times_of(tiny.pairs), SEQUENCES, model, group)
    losses = torch.tensor([epoch.loss for epoch in islice(trainer.epochs(), EPOCHS)])
    kept = {"losses": losses, "model": trainer.model.state_dict()}
    torch.save(kept, folder / f"sequences-{group.rank}-of-{group.world_size}")


def train_large(group: ProcessGroup, folder: Path) -> None:
    """Trains an epoch of many users in less memory than their whole table with its moments."""
    data = many_users(USERS, POSTS)
    train("sampled", group, folder)  # PyTorch's late imports and connections are made before the limit
    allow(int(0.8 * 3 * LARGE_TABLE))
    trainer = Trainer(data, LARGE, new_initialization(data, LARGE, group=group), group)
    epoch = next(trainer.epochs())
    torch.save(epoch.pairs, folder / f"large-{group.rank}-of-{group.world_size}")


def fail(group: ProcessGroup) -> None:
    """Rank 0 fails while the others wait for it."""

    def work() -> None:
        raise NothingToLearn("only the first process knows why")

    group.on_rank_zero(work)


def wait_long(group: ProcessGroup, folder: Path) -> None:
    """Rank 0 works for longer than the timeout of collective operations."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    done = group.on_rank_zero(lambda: Event().wait(3.0) or "done")
    (folder / f"waited-{group.rank}").write_text(f"{done}, {group.threads}")


def main() -> None:
    torch.set_num_threads(1)
    folder, jobs = Path(sys.argv[1]), sys.argv[2:]
    with process_group(int(os.environ["WORLD_SIZE"]), torch.device("cpu")) as group:
        for job in jobs:
            if job == "large":
                train_large(group, folder)
            elif job == "sequences":
                train_sequences(group, folder)
            elif job == "wait":
                wait_long(group, folder)
            elif job == "fail":
                fail(group)
            else:
                train(job, group, folder)


if __name__ == "__main__":
    main()

"""RecBole's SASRec on ordered pairs; runs in the environment of requirements.txt.

`sasrec.py FOLDER` reads FOLDER/pairs.npz: the training pairs as users and items int64 (n), by user and then
in the user's order; and whom to score which items for as scored_users int64 (m) and scored_items int64 (p).
Network, loss, optimiser's step, defaults and early stopping are RecBole's: cross-entropy over all items,
and an end when NDCG@10 of each user's last training pair, ranked among all items, has not grown for ten
epochs. The samples are the same, too, but for one thing: RecBole makes a sequence of each position, which
takes hours an epoch on two cores. Here a step computes the loss at all positions of some sequences at once,
as SASRec's own code does (Kang and McAuley, ICDM 2018); histories that are longer than a sequence are cut
at other places in each epoch.

FOLDER/last.pth is the state after each epoch and FOLDER/best.pth the best one; started again, the script
resumes there. At the end it writes FOLDER/scores.npy, float32 (m, p), by the best epoch's network from
each user's last training pairs, and FOLDER/settings.json.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.trainer.trainer import Trainer
from recbole.utils import early_stopping, init_seed

TOP = 10
SCORED_AT_ONCE = 256
# Batches whose sequences are sorted by length, for less padding.
SORTED_AT_ONCE = 8
# RecBole's defaults, except for the length: 200 is what SASRec's authors take for MovieLens 1M.
SETTINGS = {
    "hidden_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "inner_size": 256,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "loss_type": "CE",
    "learning_rate": 0.001,
    "stopping_step": 10,
    "MAX_ITEM_LIST_LENGTH": 200,
}


class AllPositions(SASRec):  # type: ignore[misc]  # RecBole has no types
    """RecBole's SASRec with the loss at all positions of a sequence; it predicts from the last one."""

    def gather_indexes(self, output: torch.Tensor, gather_index: torch.Tensor) -> torch.Tensor:
        """In training all outputs (b, l, h), otherwise those at the indices (b), as (b, h)."""
        if self.training:
            return output
        last: torch.Tensor = super().gather_indexes(output, gather_index)
        return last

    def calculate_loss(self, interaction: Interaction) -> torch.Tensor:
        """Mean cross-entropy over all items of the next item, at each position that has one."""
        output = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        targets = interaction[self.POS_ITEM_ID]
        logits = output[targets > 0] @ self.item_embedding.weight.T
        loss: torch.Tensor = self.loss_fct(logits, targets[targets > 0])
        return loss


class Batches:
    """An epoch's batches: every pair but each user's first is a target once."""

    def __init__(self, histories: list[np.ndarray], model: SASRec, size: int, seed: int) -> None:
        """Takes histories, int64 (n) each, and a batch's number of sequences; `start` begins an epoch."""
        self._histories = histories
        self._model = model
        self._size = size
        self._seed = seed
        self._rng = np.random.default_rng(seed)

    def start(self, epoch: int) -> None:
        """Seeds an epoch, so that a resumed training draws what an unbroken one would."""
        self._rng = np.random.default_rng((self._seed, epoch))

    def __iter__(self) -> Iterator[Interaction]:
        sequences = [part for history in self._histories for part in self._cut(history)]
        order = self._rng.permutation(len(sequences))
        pools = [
            sorted(order[start : start + self._size * SORTED_AT_ONCE], key=lambda at: len(sequences[at]))
            for start in range(0, len(order), self._size * SORTED_AT_ONCE)
        ]
        batches = [
            pool[start : start + self._size] for pool in pools for start in range(0, len(pool), self._size)
        ]
        for at in self._rng.permutation(len(batches)).tolist():
            yield self._batch([sequences[sequence] for sequence in batches[at]])

    def _cut(self, history: np.ndarray) -> Iterator[np.ndarray]:
        """Parts of up to length + 1 items; each begins with the last item of the part before."""
        length = self._model.max_seq_length
        start = -int(self._rng.integers(0, length)) if len(history) > length + 1 else 0
        while start < len(history) - 1:
            if start + length > 0:
                yield history[max(start, 0) : start + length + 1]
            start += length

    def _batch(self, sequences: list[np.ndarray]) -> Interaction:
        lengths = np.array([len(sequence) - 1 for sequence in sequences])
        given, wanted = (np.zeros((len(sequences), lengths.max()), np.int64) for _ in range(2))
        for row, sequence in enumerate(sequences):
            given[row, : lengths[row]] = sequence[:-1]
            wanted[row, : lengths[row]] = sequence[1:]
        model = self._model
        fields = {model.ITEM_SEQ: given, model.ITEM_SEQ_LEN: lengths, model.POS_ITEM_ID: wanted}
        return Interaction({name: torch.from_numpy(values) for name, values in fields.items()})


def configure(options: argparse.Namespace) -> Config:
    """RecBole's configuration; what is not named here is as RecBole has it."""
    chosen = {**SETTINGS, "use_gpu": False, "seed": options.seed, "train_neg_sample_args": None}
    return Config(model="SASRec", dataset="pairs", config_dict={**chosen, "checkpoint_dir": "."})


@torch.inference_mode()
def scores(model: SASRec, histories: list[np.ndarray]) -> np.ndarray:
    """Scores float32 (m, 1 + items), from each history's last pairs; column 0 is RecBole's padding."""
    model.eval()
    length = model.max_seq_length
    found = []
    for start in range(0, len(histories), SCORED_AT_ONCE):
        last = [history[-length:] for history in histories[start : start + SCORED_AT_ONCE]]
        sequences = np.zeros((len(last), length), np.int64)
        for row, history in enumerate(last):
            sequences[row, : len(history)] = history
        lengths = np.array([max(len(history), 1) for history in last])
        fields = {model.ITEM_SEQ: sequences, model.ITEM_SEQ_LEN: lengths}
        given = {name: torch.from_numpy(values) for name, values in fields.items()}
        found.append(model.full_sort_predict(Interaction(given)).numpy())
    return np.concatenate(found)


def ndcg(scored: np.ndarray, wanted: np.ndarray) -> float:
    """NDCG@10 of wanted items int64 (m) among all items, by scores (m, 1 + items)."""
    own = np.take_along_axis(scored, wanted[:, None], axis=1)
    ranks = np.sum(scored[:, 1:] > own, axis=1)
    return float(np.where(ranks < TOP, 1 / np.log2(ranks + 2.0), 0.0).mean())


def fit(trainer: Trainer, histories: list[np.ndarray], options: argparse.Namespace) -> None:
    """Trains until the hold-out's NDCG@10 has stopped growing, from the last epoch that was saved."""
    best, last, new = Path("best.pth"), Path("last.pth"), Path("new.pth")
    if last.exists():
        trainer.resume_checkpoint(last)
    several = [history for history in histories if len(history) > 1]
    known, wanted = [history[:-1] for history in several], np.array([history[-1] for history in several])
    batches = Batches(known, trainer.model, options.batch, options.seed)
    for epoch in range(trainer.start_epoch, options.epochs):
        if trainer.cur_step > trainer.stopping_step:
            break
        began = time.perf_counter()
        batches.start(epoch)
        torch.manual_seed((options.seed << 32) + epoch)
        loss = trainer._train_epoch(batches, epoch)
        quality = ndcg(scores(trainer.model, known), wanted)
        trainer.best_valid_score, trainer.cur_step, _, improved = early_stopping(
            quality, trainer.best_valid_score, trainer.cur_step, trainer.stopping_step
        )
        if improved:
            trainer._save_checkpoint(epoch, verbose=False, saved_model_file=str(best))
        trainer._save_checkpoint(epoch, verbose=False, saved_model_file=str(new))
        new.replace(last)
        seconds = time.perf_counter() - began
        found = f"sum of losses {loss:.2f}, hold-out NDCG@{TOP} {quality:.4f}"
        print(f"epoch {epoch + 1}: {seconds:.0f} s, {found}", flush=True)  # noqa: T201 - the output of a program


def main(folder: Path, options: argparse.Namespace) -> None:
    """Trains, or resumes, and scores."""
    os.chdir(folder)
    # Checkpoints hold RecBole's configuration, which PyTorch reads only from files that it is told to trust.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    torch.set_num_threads(options.threads)
    given = np.load("pairs.npz")
    items, numbers = np.unique(given["items"], return_inverse=True)
    ends = [np.searchsorted(given["users"], given["scored_users"], side=side) for side in ("left", "right")]
    everybody = np.split(numbers + 1, np.flatnonzero(np.diff(given["users"])) + 1)
    scored = [numbers[start:end] + 1 for start, end in zip(*ends, strict=True)]
    config = configure(options)
    init_seed(config["seed"], config["reproducibility"])
    trainer = Trainer(config, AllPositions(config, SimpleNamespace(num=lambda field: len(items) + 1)))
    fit(trainer, everybody, options)
    best = torch.load("best.pth")
    trainer.model.load_state_dict(best["state_dict"])
    found = scores(trainer.model, scored)
    # Items without a training pair come last, with one score.
    found[:, 0] = found.min() - 1
    place = np.searchsorted(items, given["scored_items"]).clip(max=len(items) - 1)
    columns = np.where(items[place] == given["scored_items"], place + 1, 0)
    np.save("scores.npy", found[:, columns])
    settings = {
        **SETTINGS,
        "batch": options.batch,
        "seed": options.seed,
        "epochs": torch.load("last.pth")["epoch"] + 1,
        "best_epoch": best["epoch"] + 1,
        "hold_out_ndcg@10": round(best["best_valid_score"], 4),
    }
    Path("settings.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=300, help="most epochs, RecBole's default")
    parser.add_argument("--batch", type=int, default=32, help="sequences of a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    # RecBole reads the command line, too: it must find nothing there.
    options = parser.parse_args()
    sys.argv[1:] = []
    main(options.folder.resolve(), options)

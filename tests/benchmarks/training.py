"""`make bench-train`: NeuCF's training beside RecBole's NeuMF, on the same pairs and as many threads.

Both train an epoch in turns, and only that is timed: negatives, loss, gradients and the optimiser's step.
After each epoch, outside the timing, both rank the same held-out pairs. So there are two comparisons: samples
a second, and, since the two sides sample and learn differently, seconds to the same quality.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from animora_training.evaluation.network_ranking import TOP
from animora_training.importers.ncf_import import read_feed
from animora_training.modeling.config import FitConfig
from tests.benchmarks.trainers import Animora, Side, Task, Turn, recbole
from tests.support.synthetic_feed import synthetic_feed

ROUNDS = 10
THREADS = 2
SEED = 0
# The network of both sides; all other settings of ours are the defaults.
NETWORK = ("factors=8", "mlp_embedding=8", "hidden=32,16,8", "embeddings=false")
# Four negatives for each positive and 8,192 pairs a step, negatives included. Of the learning rates 0.001,
# which is RecBole's default, 0.004 and 0.015 the last learnt fastest, on held-out pairs of MovieLens 1M.
RECBOLE_CHOICES: dict[str, Sequence[float]] = {"negatives": [4], "batch": [8192], "learning-rate": [0.015]}
RESULT = Path("docs/benchmarks/training.json")


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of a side over all turns but the first, and its quality over time.

    Attributes:
        samples_per_second: Samples a second of wall time.
        seconds_per_epoch: Wall time.
        cpu_seconds_per_epoch: All threads.
        samples_per_epoch: Number of scored pairs.
        ndcg: NDCG@10 after each epoch.
        seconds: Seconds of training to the end of each epoch, preparation included.
    """

    samples_per_second: float
    seconds_per_epoch: float
    cpu_seconds_per_epoch: float
    samples_per_epoch: int
    ndcg: list[float]
    seconds: list[float]

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> "Figures":
        """Computes the figures of two or more turns."""
        steady = turns[1:]
        return cls(
            samples_per_second=statistics.median(turn.samples / turn.seconds for turn in steady),
            seconds_per_epoch=statistics.median(turn.seconds for turn in steady),
            cpu_seconds_per_epoch=statistics.median(turn.cpu_seconds for turn in steady),
            samples_per_epoch=steady[0].samples,
            ndcg=[turn.ndcg for turn in turns],
            seconds=list(itertools.accumulate(turn.seconds for turn in turns)),
        )

    def seconds_to(self, ndcg: float) -> float:
        """Seconds of training until the NDCG@10 is reached; infinite if it never is."""
        reached = (seconds for seconds, score in zip(self.seconds, self.ndcg, strict=True) if score >= ndcg)
        return next(reached, float("inf"))


def take_turns(sides: Mapping[str, Side], rounds: int, out: Console) -> dict[str, Figures]:
    """Lets each side train an epoch in every round, of two or more."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            turn = side.turn()
            turns[name].append(turn)
            out.print(f"round {number} of {rounds}, {name}: {turn.seconds:.2f} s, NDCG@{TOP} {turn.ndcg:.4f}")
    return {name: Figures.of(several) for name, several in turns.items()}


def report(figures: Mapping[str, Figures], pairs: int, out: Console, result: Path) -> None:
    """Prints the table and the ratios of two sides, and writes the JSON."""
    (ours, animora), (theirs, other) = figures.items()
    # The quality that both reach.
    ndcg = min(max(side.ndcg) for side in figures.values())
    table = Table(title=f"{pairs:,} pairs, {THREADS} threads; medians of {len(other.ndcg) - 1} epochs")
    for heading in ("side", "samples/s", "epoch s", "CPU s", f"NDCG@{TOP}", f"s to {ndcg:.4f}"):
        table.add_column(heading, justify="right")
    for name, side in figures.items():
        table.add_row(
            *(name, f"{side.samples_per_second:,.0f}", f"{side.seconds_per_epoch:.2f}"),
            *(f"{side.cpu_seconds_per_epoch:.2f}", f"{max(side.ndcg):.4f}", f"{side.seconds_to(ndcg):.1f}"),
        )
    out.print(table)
    ratios = {
        "samples_per_second_ratio": animora.samples_per_second / other.samples_per_second,
        "epochs_per_second_ratio": other.seconds_per_epoch / animora.seconds_per_epoch,
        "quality_ratio": other.seconds_to(ndcg) / animora.seconds_to(ndcg),
    }
    out.print(
        f"{ours} beside {theirs}: {ratios['samples_per_second_ratio']:.2f} times the samples a second, "
        f"{ratios['epochs_per_second_ratio']:.2f} times the epochs a second, "
        f"{ratios['quality_ratio']:.2f} times as fast to NDCG@{TOP} {ndcg:.4f}"
    )
    sides = {name: _rounded(asdict(side)) for name, side in figures.items()}
    content = {"pairs": pairs, "threads": THREADS, "ndcg": round(ndcg, 4), **_rounded(ratios), "sides": sides}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(content, indent=2) + "\n")
    out.print(f"written to {result}")


def _rounded(figures: Mapping[str, float | list[float]]) -> dict[str, float | list[float]]:
    return {
        name: [round(one, 4) for one in value] if isinstance(value, list) else round(value, 4)
        for name, value in figures.items()
    }


def main(options: argparse.Namespace, out: Console) -> None:
    """Measures.

    Raises:
        InvalidInput: The folder cannot be read.
        RuntimeError: RecBole does not run.
    """
    torch.set_num_threads(THREADS)
    feed = read_feed(options.data) if options.data else synthetic_feed(SEED)
    task = Task.of(feed, SEED)
    config = FitConfig.from_choices((*NETWORK, f"max_epochs={options.rounds}", *options.set), SEED)
    network: dict[str, Sequence[float]] = {
        "factors": [config.factors],
        "mlp-embedding": [config.mlp_embedding],
        "hidden": config.hidden,
        "seed": [SEED],
    }
    with recbole(task, {**network, **RECBOLE_CHOICES}, THREADS) as other:
        sides: dict[str, Side] = {"NeuCF": Animora(task, config), "RecBole's NeuMF": other}
        figures = take_turns(sides, options.rounds, out)
    report(figures, len(task.split.training), out, options.result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder in the NCF format, instead of synthetic likes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="epochs of each side, two or more")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of our FitConfig")
    parser.add_argument("--result", type=Path, default=RESULT, help="where to write the JSON")
    main(parser.parse_args(), Console(highlight=False, soft_wrap=True))

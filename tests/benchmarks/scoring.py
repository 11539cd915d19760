"""`make bench-scoring`: pairs a second on one core, by native code and by TorchScript, in turns.

The network is the default one with random weights; every request has 200 posts. Both sides get the same
tensors, and their probabilities are compared before anything is timed.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from animora_artifact.compiled import load_compiled
from animora_artifact.manifest import Dimensions
from animora_artifact.network import Network, load_network, save_network
from animora_training.modeling.config import FitConfig
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.pipeline.compilation import compile_score
from animora_training.pipeline.export import FoldedNeuCF
from tests.benchmarks.results import SERVING, update

USERS, POSTS = 2400, 5400  # the size of the sample feed
REQUESTS = (1, 8, 32)
CANDIDATES = 200
ROUNDS = 501
SECONDS = 0.002  # of a turn, approximately
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Speeds:
    """Medians of a batch size's rounds.

    Attributes:
        pairs: Pairs in the batch.
        torchscript: Pairs a second.
        compiled: Pairs a second.
        ratio: Speed of native code over that of TorchScript in the same round.
    """

    pairs: int
    torchscript: float
    compiled: float
    ratio: float


def networks(config: FitConfig, compiler: str = "cc") -> tuple[Network, Network, Tensor]:
    """A random network by TorchScript and by native code, and its table of posts."""
    torch.manual_seed(0)
    shape = NetworkShape(
        USERS, POSTS, config.factors, config.mlp_embedding, config.hidden, config.feature_width, 0, 0
    )
    network = NeuCF(shape)
    with torch.no_grad():  # large enough for probabilities of all sizes
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.normal_(std=0.3)
    folded = FoldedNeuCF(network).eval()
    scripted = load_network(save_network(folded), torch.device("cpu"))
    dimensions = Dimensions(
        users=USERS,
        posts=POSTS,
        factors=config.factors,
        mlp_embedding=config.mlp_embedding,
        hidden=config.hidden,
        image=0,
        caption=0,
        post_vector=shape.post_vector,
    )
    compiled = load_compiled(compile_score(dimensions, compiler), scripted, dimensions)
    return scripted, compiled, folded.post_table.detach()


@torch.inference_mode()
def measure(config: FitConfig, requests: int, rounds: int, tolerance: float = TOLERANCE) -> Speeds:
    """Both sides in turns, on batches of `requests` requests.

    Raises:
        RuntimeError: Their probabilities differ by more than the tolerance.
    """
    scripted, compiled, table = networks(config)
    users = torch.randint(1, USERS, (requests,))
    segments = torch.arange(requests).repeat_interleave(CANDIDATES)
    posts = torch.randint(0, POSTS, (requests * CANDIDATES,))
    sides = [partial(side.score, users, segments, table, posts) for side in (scripted, compiled)]
    for _ in range(3):  # TorchScript is slow at first
        expected, found = (torch.sigmoid(side()) for side in sides)
    if (difference := float((expected - found).abs().max())) > tolerance:
        raise RuntimeError(f"the sides differ by {difference:g} in probability")
    calls = [max(int(SECONDS / _seconds(side, 1)), 1) for side in sides]
    turns = [[_seconds(*side) for side in zip(sides, calls, strict=True)] for _ in range(rounds)]
    torchscript, ours = (len(posts) / statistics.median(column) for column in zip(*turns, strict=True))
    return Speeds(len(posts), torchscript, ours, statistics.median(theirs / ours for theirs, ours in turns))


def _seconds(side: Callable[[], Tensor], calls: int) -> float:
    """Mean seconds of a call."""
    began = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - began) / calls


def report(out: Console, speeds: list[Speeds]) -> dict[str, float]:
    """Prints the table; returns the figure that is stored."""
    table = Table(title=f"Scoring on one core, {CANDIDATES} posts a request")
    for heading in ("pairs at once", "TorchScript, pairs/s", "compiled, pairs/s", "times"):
        table.add_column(heading, justify="right")
    for speed in speeds:
        table.add_row(
            f"{speed.pairs:,}", f"{speed.torchscript:,.0f}", f"{speed.compiled:,.0f}", f"{speed.ratio:.2f}"
        )
    out.print(table)
    return {"scoring_over_torchscript": round(speeds[-1].ratio, 2)}


def main(out: Console) -> None:
    """Measures, prints the table, and adds its figure to the serving benchmark's."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    update(SERVING, report(out, [measure(FitConfig(), requests, ROUNDS) for requests in REQUESTS]))
    out.print(f"added to {SERVING}")


if __name__ == "__main__":
    main(Console())

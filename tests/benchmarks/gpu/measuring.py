"""What the parts of `make bench-gpu` share: the device, reporting, and time within a part's share."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from tests.benchmarks.gpu.parts import PREFIX

MIN_ROUNDS, MAX_ROUNDS = 5, 200
SMALL_SECONDS = 6.0  # of a part, as far as it can choose


def report(name: str, value: float) -> None:
    """Prints a figure for the parent process."""
    print(PREFIX + json.dumps({"name": name, "value": value}), flush=True)  # noqa: T201


def say(text: str) -> None:
    """Prints a line for the reader."""
    print(text, flush=True)  # noqa: T201


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a part.

    Attributes:
        device: Where it computes.
        small: Whether sizes are reduced, so that it takes seconds on a CPU.
        seconds: The part's share of time.
    """

    device: torch.device
    small: bool
    seconds: float

    @classmethod
    def parse(cls) -> "Options":
        """From the command line of a part."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--small", action="store_true")
        parser.add_argument("--seconds", type=float, required=True)
        chosen = parser.parse_args()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(1)  # steady on a machine that others use too
        seconds = min(chosen.seconds, SMALL_SECONDS) if chosen.small else chosen.seconds
        return cls(device, chosen.small, seconds)


def median_seconds(run: Callable[[], object], device: torch.device, budget: float) -> float:
    """Median seconds of a call that may leave work on the device, after a warm-up.

    On a GPU CUDA events time it on the device, from when the call begins to the end of its last kernel. An
    eager call whose launches take longer than its kernels takes as long as they do.

    Args:
        run: Computes once.
        device: Where it does.
        budget: Seconds to spend, warm-up included; MIN_ROUNDS calls are made in any case.
    """
    is_gpu = device.type == "cuda"
    ends_at = time.perf_counter() + budget
    for _ in rounds(MIN_ROUNDS, time.perf_counter() + budget / 4):
        run()
    if not is_gpu:
        return wall_seconds(run, ends_at)
    times = []
    torch.cuda.synchronize(device)
    for _ in rounds(MAX_ROUNDS, ends_at):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(statistics.median(times))


def wall_seconds(run: Callable[[], object], ends_at: float) -> float:
    """Median seconds of a call that waits for its result, until a time of `perf_counter`."""
    times = []
    for _ in rounds(MAX_ROUNDS, ends_at):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(statistics.median(times))


def rounds(most: int, ends_at: float) -> Iterator[int]:
    """Counts MIN_ROUNDS rounds, and up to `most` while it is not yet `ends_at` of `perf_counter`."""
    for number in range(most):
        if number >= MIN_ROUNDS and time.perf_counter() > ends_at:
            return
        yield number
